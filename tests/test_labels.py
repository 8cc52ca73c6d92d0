"""Groups of classes, and hierarchies over them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import make_hierarchy
from stream_ann.errors import UsageError
from stream_ann.frames import Frame, Prediction
from stream_ann.labels import Hierarchy, LabelOptions, Plain, bundled_hierarchy, labelling_from

ROOT = Path(__file__).resolve().parent.parent
PETS = ["tabby", "tiger cat", "beagle", "great white shark, white shark, man-eater", "car", "Cardigan", "cardigan"]
TREE = """
# what there is
animal
  cat
    tabby
    tiger cat
  dog
    beagle
    Cardigan
  great white shark, white shark, man-eater
thing
  car
  cardigan
"""


@pytest.fixture(scope="module")
def imagenet() -> list[str]:
    return json.loads((ROOT / "weights" / "imagenet.json").read_text())["classes"]


@pytest.fixture
def tree(tmp_path) -> Path:
    path = tmp_path / "tree.txt"
    path.write_text(TREE)
    return path


def grouped(classes: list[str], *specs: str, tree: Path | None = None) -> dict[str, float]:
    """What the groups get where each class of ``classes`` is as probable as the others."""
    labelling = labelling_from(classes, LabelOptions(classes=specs, hierarchy=tree))
    even = np.full(len(classes), 1 / len(classes), np.float32)
    return {n: round(float(p) * len(classes), 2) for n, p in zip(labelling.names, labelling.group(even), strict=True)}


class TestGroups:
    def test_nothing_asked_for_is_every_class_by_its_own_name(self):
        assert isinstance(labelling_from(PETS, LabelOptions()), Plain)

    def test_listed_classes_share_the_whole_probability(self):
        labelling = labelling_from(PETS, LabelOptions(classes=["cat=tabby,Tiger Cat", "BEAGLE"]))
        assert labelling.names == ("cat", "beagle")
        batch = np.array([[0.1, 0.2, 0.1, 0.6, 0, 0, 0], [0, 0, 0, 0.5, 0.5, 0, 0]], np.float32)
        # where none of them is possible they are equally unlikely
        assert labelling.group(batch) == pytest.approx(np.array([[0.75, 0.25], [0.5, 0.5]]))
        assert labelling.group(batch[0]) == pytest.approx(np.array([0.75, 0.25]))

    def test_other_keeps_the_rest(self):
        assert grouped(PETS, "cat=tabby,tiger cat", "beagle", "other") == {"cat": 2, "beagle": 1, "other": 4}
        assert grouped(PETS, "none of these=other", "car") == {"none of these": 6, "car": 1}

    def test_one_group_alone_has_the_rest_against_it(self):
        assert grouped(PETS, "car") == {"car": 1, "other": 6}

    def test_several_plain_names_at_once_and_the_same_group_again(self):
        assert grouped(PETS, "tabby, car", "other") == {"tabby": 1, "car": 1, "other": 5}
        assert grouped(PETS, "cat=tabby", "cat=tiger cat", "other") == {"cat": 2, "other": 5}

    def test_names_with_commas(self):
        shark = "Great white shark, White shark, Man-eater"
        assert grouped(PETS, f"fish={shark},car", "other") == {"fish": 2, "other": 5}
        assert grouped(PETS, shark, "car", "other") == {PETS[3]: 1, "car": 1, "other": 5}

    def test_names_that_differ_in_case_alone(self):
        assert grouped(PETS, "Cardigan", "cardigan", "other") == {"Cardigan": 1, "cardigan": 1, "other": 5}

    def test_from_a_file(self, tmp_path):
        path = tmp_path / "groups.txt"
        path.write_text("# my groups\ncat=tabby,tiger cat\n\nbeagle\n", encoding="utf-8-sig")
        assert grouped(PETS, f"@{path}", "other") == {"cat": 2, "beagle": 1, "other": 4}

    def test_concepts(self, tree):
        assert grouped(PETS, "dog", "other", tree=tree) == {"dog": 2, "other": 5}
        assert grouped(PETS, "pet=CAT,beagle", "other", tree=tree) == {"pet": 3, "other": 4}
        assert grouped(PETS, "cat/*", "other", tree=tree) == {"tabby": 1, "tiger cat": 1, "other": 5}

    def test_the_bundled_hierarchy_serves_without_being_asked_for(self, imagenet):
        assert grouped(imagenet, "cat=tabby,tiger cat,Egyptian cat", "dog", "other") == {
            "cat": 3,
            "dog": 118,
            "other": 879,
        }

    @pytest.mark.parametrize(
        ("specs", "message"),
        [
            (["taby", "car"], "the weights know no class 'taby'; did you mean 'tabby'?"),
            (["shark"], "classes with that word: great white shark, white shark, man-eater"),
            (["cat=tabby", "tiger=tabby"], "the class 'tabby' is in 'cat' and in 'tiger'; put each"),
            (["cat="], "'cat=' is no group; write NAME=class,class"),
            (["=tabby"], "'=tabby' is no group"),
            ([" "], "no class is named"),
            (["a=other", "b=other"], "'other' is in two groups"),
            ([*PETS, "other"], "no class is left for 'other'"),
            (["@missing.txt"], "cannot read the groups in 'missing.txt': No such file"),
        ],
    )
    def test_what_cannot_be(self, specs, message):
        with pytest.raises(UsageError) as raised:
            labelling_from(PETS, LabelOptions(classes=specs))
        assert message in str(raised.value)

    def test_a_file_without_its_sign_is_recognised(self, tmp_path):
        path = tmp_path / "groups.txt"
        path.write_text("tabby")
        with pytest.raises(UsageError, match=rf"write @{path}"):
            labelling_from(PETS, LabelOptions(classes=[str(path)]))

    @given(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), st.data())
    def test_groups_sum_to_one_and_keep_their_order(self, raw, data):
        total = sum(raw)
        probabilities = np.array(raw, np.float32) / np.float32(total) if total > 1e-3 else np.full(4, 0.25, np.float32)
        names = ["a", "b", "c", "d"]
        owner = data.draw(st.lists(st.sampled_from(["x", "y", "z", ""]), min_size=4, max_size=4))
        specs = [f"{group}={name}" for group, name in zip(owner, names, strict=True) if group]
        if not specs:
            return
        labelling = labelling_from(names, LabelOptions(classes=specs))
        result = labelling.group(probabilities)
        assert result.dtype == np.float32
        assert result.sum() == pytest.approx(1, abs=1e-5)
        sums = {g: sum(p for p, o in zip(probabilities, owner, strict=True) if o == g) for g in set(owner) - {""}}
        for one in sums:
            for other in sums:
                if sums[one] > sums[other] + 1e-5:
                    where = labelling.names.index
                    assert result[where(one)] > result[where(other)]


class TestHierarchy:
    def test_an_indented_tree(self):
        hierarchy = Hierarchy.parse(TREE)
        assert hierarchy.concepts == ("animal", "cat", "dog", "thing")
        assert hierarchy.below("dog") == {"beagle", "Cardigan"}
        assert len(hierarchy.below("animal")) == 5
        assert hierarchy.find("Thing") == "thing"
        assert hierarchy.find("cardigan") == "cardigan"
        assert hierarchy.find("mouse") is None
        hierarchy.check_covers(PETS)

    def test_lines_of_child_and_parent_with_several_parents(self):
        hierarchy = Hierarchy.parse(
            "dog\tpet\ndog\tcanine\nwolf\tcanine\ncat\tpet\npet\tanimal\ncanine\tanimal\nlone\n"
        )
        assert hierarchy.below("pet") == {"dog", "cat"}
        assert hierarchy.below("canine") == {"dog", "wolf"}
        assert hierarchy.below("animal") == {"dog", "cat", "wolf"}  # the dog once
        assert hierarchy.below("lone") == {"lone"}

    def test_a_name_may_come_twice_in_a_tree(self):
        hierarchy = Hierarchy.parse("pet\n\tdog\n\t\tbeagle\ncanine\n\tdog\n\twolf\n")
        assert hierarchy.below("canine") == {"beagle", "wolf"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty"),
            ("# nothing", "is empty"),
            ("  a", "line 1: indented unlike any line above"),
            ("a\n    b\n  c", "line 3: indented unlike any line above"),
            ("a\n  b\n\tc", "line 3: tabs and spaces are mixed"),
            ("a\tb\tc", "line 1: 3 names; write child, a tab, parent"),
            ("a\tb\nb\tc\nc\ta", "'a' is above itself, in 'tree'; take one of the lines"),
            ("a\n a", "'a' is above itself"),
        ],
    )
    def test_what_is_no_hierarchy(self, text, message):
        with pytest.raises(UsageError) as raised:
            Hierarchy.parse(text, where="tree")
        assert message in str(raised.value)

    def test_files_that_cannot_be_read(self, tmp_path):
        with pytest.raises(UsageError, match=r"cannot read the hierarchy .*missing"):
            Hierarchy.read(tmp_path / "missing")
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UsageError, match="is not UTF-8"):
            Hierarchy.read(tmp_path / "binary")

    def test_every_class_must_be_in_the_users_hierarchy(self, tree):
        with pytest.raises(UsageError, match="the class 'tabbi' is not in the hierarchy; did you mean 'tabby'"):
            labelling_from(["tabbi", "car"], LabelOptions(classes=["car"], hierarchy=tree))
        with pytest.raises(UsageError, match="the class 'wombat' is not in the hierarchy; add it"):
            labelling_from(["wombat", "car"], LabelOptions(classes=["car"], hierarchy=tree))
        with pytest.raises(UsageError, match="the class 'dog' has other names below it"):
            labelling_from(["dog", "car"], LabelOptions(classes=["car"], hierarchy=tree))


class TestTheBundledHierarchy:
    def test_it_has_exactly_the_classes_of_imagenet(self, imagenet):
        hierarchy = bundled_hierarchy()
        assert hierarchy.below("something") == set(imagenet)
        assert hierarchy.covers(imagenet)

    def test_the_table_of_ids_is_in_the_order_of_the_classes(self, imagenet):
        rows = [line.split("\t") for line in make_hierarchy.TABLE.read_text().splitlines()]
        assert [int(row[0]) for row in rows] == list(range(1000))
        assert [row[2] for row in rows] == imagenet

    @pytest.mark.skipif(not make_hierarchy.WORDNET.is_dir(), reason="needs the package wordnet-base")
    def test_the_script_makes_this_file_and_wordnet_has_these_names(self):
        assert make_hierarchy.hierarchy() == (make_hierarchy.ASSETS / "imagenet-hierarchy.txt").read_text()
        nouns = make_hierarchy.synsets(make_hierarchy.WORDNET)
        for offset, name in make_hierarchy.classes(make_hierarchy.TABLE).items():
            assert any(lemma.casefold() in name.casefold() for lemma in nouns[offset].names), name

    def test_concepts_nest_as_people_think(self, imagenet):
        hierarchy = bundled_hierarchy()
        path = ["something", "organism", "animal", "mammal", "dog", "spaniel", "springer spaniel", "English springer"]
        for wider, narrower in pairwise(path):
            assert hierarchy.below(wider) > hierarchy.below(narrower)
        assert hierarchy.below("dog") <= hierarchy.below("canine") & hierarchy.below("domestic animal")
        assert not hierarchy.below("container") & hierarchy.below("vehicle")
        assert "Cardigan" in hierarchy.below("corgi")
        assert "cardigan" in hierarchy.below("clothing")

    def test_every_concept_tells_something_apart(self):
        hierarchy = bundled_hierarchy()
        sets = [hierarchy.below(concept) for concept in hierarchy.concepts]
        assert len(set(sets)) == len(sets)
        assert min(len(below) for below in sets) >= 2

    def test_wordnets_licence_lies_beside_it(self):
        licence = (make_hierarchy.ASSETS / "imagenet-hierarchy.LICENSE.txt").read_text()
        assert "WordNet 3.0 Copyright 2006 by Princeton University" in licence
        assert "imagenet-hierarchy.LICENSE.txt" in (make_hierarchy.ASSETS / "imagenet-hierarchy.txt").read_text()


@pytest.mark.parametrize("smooth_s", [-1.0, float("nan"), float("inf")])
def test_options_that_make_no_sense(smooth_s):
    with pytest.raises(UsageError, match="smooth-s must be 0 or a number of seconds"):
        LabelOptions(smooth_s=smooth_s)


def test_one_text_is_one_group():
    assert LabelOptions(classes="tabby").classes == ("tabby",)


def test_a_grouped_answer_is_called_by_its_group():
    labelling = labelling_from(PETS, LabelOptions(classes=["cat=tabby,tiger cat", "car"]))
    answer = Prediction(1, labelling.group(np.array([0.3, 0.3, 0, 0, 0.4, 0, 0], np.float32)), 0.0)
    settled = labelling.settle(Frame(np.zeros((4, 4, 3), np.uint8), "s", 0, None, 0.0), answer, final=True)
    assert (settled.label, settled.answer) == ("cat", answer)
    assert settled.confidence == pytest.approx(0.6)
