"""The weights card and its JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from stream_ann.card import Card, CardStep, Validation, WeightsFile
from stream_ann.errors import CardError
from stream_ann.preprocess import Preprocessing
from stream_ann.weights.card_json import card_from_json, card_to_json

CARD = Card(
    name="flowers",
    title="Flowers, 2 exits",
    description="Two lines:\nthis is the second.",
    arch={"name": "resann", "n": 3},
    classes=(
        "rose",
        "Gänseblümchen",
        "\u06af\u0644\u200c\u0647\u0627",  # Persian: "flowers", spelt with a format character
    ),
    preprocessing=Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 0.9, "bilinear"),
    steps=(CardStep("a@32", 0, 32, 1000, 0.5), CardStep("b@64", 1, 64, 4000)),
    validation=Validation("top-1", "flowers, validation", 300, "stream-ann evaluate flowers DATA"),
    readout_weights=(1.0, 2.5),
    training={"kind": "trained", "command": "stream-ann train DATA", "data": "flowers", "seed": 0, "more": [1, None]},
    licence="Apache-2.0",
    sources=("https://example.org",),
    file=WeightsFile("flowers.safetensors", "0123456789abcdef" * 4, 12345),
)


def read(text: str | bytes) -> Card:
    return card_from_json(text, origin="here.json")


def changed(path: str, value: Any) -> str:
    """The card as JSON with one value changed, or taken out where ``value`` is ``...``."""
    document = copy.deepcopy(CARD.as_json())
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = document
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document)


class TestRoundTrip:
    def test_all_fields(self):
        assert read(card_to_json(CARD)) == CARD

    def test_optional_fields_may_be_null_or_missing(self):
        bare = dataclasses.replace(CARD, validation=None, readout_weights=None, steps=(CardStep("a@32", 0, 32, 1000),))
        document = bare.as_json()
        assert read(json.dumps(document)) == bare
        del document["validation"], document["readout_weights"], document["steps"][0]["accuracy"]
        assert read(json.dumps(document)) == bare

    def test_calibration_is_written_where_there_is_one(self):
        steps = (dataclasses.replace(CARD.steps[0], temperature=1.25, threshold=0.9), CARD.steps[1])
        card = dataclasses.replace(CARD, steps=steps)
        written = card.as_json()["steps"]
        assert (written[0]["temperature"], written[0]["threshold"]) == (1.25, 0.9)
        assert not {"temperature", "threshold"} & set(written[1])
        assert read(card_to_json(card)) == card

    def test_is_readable_text(self):
        text = card_to_json(CARD).decode()
        assert text.endswith("}\n")
        assert '"Gänseblümchen"' in text
        assert text.index('"title"') < text.index('"arch"') < text.index('"steps"') < text.index('"classes"')

    def test_unknown_keys_are_kept_wherever_they_are(self):
        document = CARD.as_json()
        document["colour"] = {"of": ["the", "sky"]}
        for part in (document["steps"][1], document["validation"], document["file"], document["training"]):
            part["newer"] = 1
        again = read(json.dumps(document))
        assert again.extra == {"colour": {"of": ["the", "sky"]}}
        assert json.loads(card_to_json(again)) == document

    def test_what_json_cannot_hold_is_not_written(self):
        for value in (float("nan"), {1, 2}, "\ud800"):
            odd = dataclasses.replace(CARD, extra={"odd": value})
            with pytest.raises(CardError, match="the card of 'flowers' cannot be written as JSON"):
                card_to_json(odd)

    def test_figures(self):
        assert CARD.accuracies == (0.5, None)
        assert CARD.total_macs == 5000

    def test_what_labels_have_shown_is_planned_by(self):
        assert CARD.planning_accuracies == CARD.accuracies
        card = dataclasses.replace(CARD, extra={"planning": {"measure": "top-1", "exits": [0.6, 0.55]}})
        assert card.planning_accuracies == (0.6, 0.55)
        assert card.accuracies == CARD.accuracies
        assert read(card_to_json(card)) == card

    @pytest.mark.parametrize("planning", [3, {}, {"exits": "ab"}, {"exits": [0.5]}, {"exits": [0.5, 1.5]}])
    def test_what_cannot_be_planned_by_is_refused(self, planning):
        with pytest.raises(CardError, match=r"'planning.exits' must be 2 numbers from 0 to 1"):
            dataclasses.replace(CARD, extra={"planning": planning})

    def test_summary_says_what_they_are_and_where_from(self):
        text = "\n".join(CARD.summary())
        for part in (
            "Flowers, 2 exits",
            "second",
            "3 (rose",
            "bilinear",
            "Apache-2.0",
            "example.org",
            "train DATA",
            "300",
        ):
            assert part in text


class TestNotACard:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "is not valid JSON: Expecting value"),
            (b"{", "is not valid JSON: Expecting property name"),
            (b"\x80\x04\x95", "is not valid JSON: 'utf-8' codec"),
            (b"[" * 200_000, "is not valid JSON: it is nested too deeply"),
            (b'{"format": 1, "macs": NaN}', "is not valid JSON: NaN is not a JSON number"),
            (b'{"format": 1, "macs": -Infinity}', "is not valid JSON: -Infinity is not a JSON number"),
            (b'{"format": 1, "macs": 1e999}', "is not valid JSON: the number '1e999' is too large"),
            (b'{"format": 1, "macs": ' + b"9" * 5000 + b"}", "is not valid JSON: Exceeds the limit"),
            (b'{"format": 1, "format": 1}', "is not valid JSON: the key 'format' is there twice"),
            (b"[1]", r"here.json': the whole must be an object, got \[1\]"),
            (b"{}", "'format' is missing"),
            (b'{"format": "1"}', "'format' must be a whole number of at least 1, got '1'"),
        ],
    )
    def test_other_content(self, text, message):
        with pytest.raises(CardError, match=message) as caught:
            read(text)
        assert str(caught.value).startswith("weights card 'here.json'")
        assert "\n" not in str(caught.value)

    def test_another_format_says_what_to_do(self):
        with pytest.raises(CardError, match="it has format 2, this version of stream_ann reads format 1") as caught:
            read('{"format": 2, "all": "else may differ"}')
        assert caught.value.remedy == "use a newer version: pip install --upgrade stream-ann"

    @pytest.mark.parametrize("key", [k for k in CARD.as_json() if k not in ("validation", "readout_weights")])
    def test_missing_key(self, key):
        with pytest.raises(CardError, match=f"'{key}' is missing"):
            read(changed(key, ...))

    @pytest.mark.parametrize("key", ["steps.1.macs", "validation.images", "file.sha256", "preprocessing.crop"])
    def test_missing_key_of_a_part(self, key):
        shown = key.replace("steps.1", r"steps\[1\]")
        with pytest.raises(CardError, match=f"'{shown}' is missing"):
            read(changed(key, ...))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "../flowers", "'name' must be up to 100 letters"),
        ("name", 3, "'name' must be a text, got 3"),
        ("title", "red \x1b[31m", r"'title' must be a text without control characters, got 'red \\x1b\[31m'"),
        ("description", "bell\a", "'description' must be free of control characters"),
        ("licence", "a\nb", "'licence and sources' must be texts without control characters"),
        ("sources", "https://example.org", "'sources' must be a list of texts"),
        ("arch", [], r"arch must be an object, got \[\]"),
        ("classes", [], "'classes' must be 1 to 100000 names, got 0"),
        ("classes", ["a", "b", "a"], "'classes' has 'a' twice"),
        ("classes", ["a", " "], "'classes' must be names without control characters, got ' '"),
        ("classes", ["a", "b\x9b"], "'classes' must be names without control characters"),
        ("classes", ["a", "\ud800"], "'classes' must be names without control characters"),
        ("classes", ["a", 1], "'classes' must be a list of texts"),
        ("classes", "ab", "'classes' must be a list of texts, got 'ab'"),
        ("classes", [f"c{i}" for i in range(100_001)], "'classes' must be 1 to 100000 names, got 100001"),
        ("preprocessing.mean", [0.5, 0.5], "'preprocessing': mean must be three finite numbers"),
        ("preprocessing.std", [0, 1, 1], "'preprocessing': std must be positive"),
        ("preprocessing.std", "1", "'preprocessing.std' must be a list of numbers, got '1'"),
        ("preprocessing.crop", True, "'preprocessing.crop' must be a number, got True"),
        ("preprocessing.interpolation", "nearest", "'preprocessing': invalid interpolation 'nearest'"),
        ("preprocessing.gamma", 2.2, "'preprocessing.gamma' is not known to this version of stream_ann"),
        ("steps", [], "'steps' must be 1 to 1000 steps, got 0"),
        ("steps", {}, "'steps' must be a list, got {}"),
        ("steps.0", None, r"steps\[0\] must be an object, got None"),
        ("steps.0.name", "", r"'steps\[0\].name' must be a name, got ''"),
        ("steps.1.name", "a@32", "'steps' has 'a@32' twice"),
        ("steps.0.member", 1, r"'steps\[0\].member' must be 0, got 1"),
        ("steps.1.member", 2, r"'steps\[1\].member' must be 0 or 1, got 2"),
        ("steps.1.macs", 1.5, r"'steps\[1\].macs' must be a whole number of at least 0, got 1.5"),
        ("steps.1.macs", True, r"'steps\[1\].macs' must be a whole number of at least 0, got True"),
        ("steps.1.resolution_px", 0, r"'steps\[1\].resolution_px' must be a whole number of at least 1, got 0"),
        ("steps.0.accuracy", 75.1, r"'steps\[0\].accuracy' must be from 0 to 1, got 75.1"),
        ("steps.0.accuracy", "high", r"'steps\[0\].accuracy' must be a number, got 'high'"),
        ("steps.0.temperature", 0, r"'steps\[0\].temperature' must be a positive number, got 0"),
        ("steps.0.threshold", 1.5, r"'steps\[0\].threshold' must be from 0 to 1, got 1.5"),
        ("validation.images", 0, "'validation.images' must be a whole number of at least 1, got 0"),
        ("validation.data", "a\x00", "'training and validation' must be described by texts without control characters"),
        ("readout_weights", [1.0], "'readout_weights' must be 2 positive numbers, one for each step, got"),
        ("readout_weights", [1.0, 0.0], "'readout_weights' must be 2 positive numbers"),
        ("readout_weights", [1, 10**400], "'readout_weights' must be a list of numbers"),
        ("training.kind", "found", "'training.kind' must be 'converted' or 'trained', got 'found'"),
        ("training.command", 5, "'training and validation' must be described by texts"),
        ("file.sha256", "0123", "'file.sha256' must be 64 hexadecimal digits, got '0123'"),
        ("file.bytes", -1, "'file.bytes' must be a whole number of at least 1, got -1"),
        *(
            ("file.name", name, "'file.name' must be the name of a .safetensors file beside the card, without a path")
            for name in (
                "../flowers.safetensors",
                "/etc/flowers.safetensors",
                "sub/flowers.safetensors",
                "..\\flowers.safetensors",
                "C:flowers.safetensors",
                ".flowers.safetensors",
                "flowers.safetensors\x00",
                "flowers.safetensors/",
                "flowers.pth",
                "..",
                "",
            )
        ),
    ],
)
def test_values_that_make_no_sense(path, value, message):
    with pytest.raises(CardError, match=message) as caught:
        read(changed(path, value))
    assert str(caught.value).startswith("weights card 'here.json': ")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_card_made_in_python_is_checked_as_well():
    with pytest.raises(CardError, match="'readout_weights' must be 2 positive numbers, one for each step, got"):
        dataclasses.replace(CARD, readout_weights=(1.0, float("nan")))
    with pytest.raises(CardError, match="'steps' must be 1 to 1000 steps, got 0"):
        dataclasses.replace(CARD, steps=())
