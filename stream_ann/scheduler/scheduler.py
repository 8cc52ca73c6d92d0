"""The scheduler: refine each frame exit by exit until its time is up, then hand out one result for it."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence

from stream_ann.clock import Clock
from stream_ann.frames import Ended, ExitAnswer, FrameResult, Prediction
from stream_ann.labels import Labelling, Plain
from stream_ann.readout import Latest, Readout
from stream_ann.scheduler.background import Background
from stream_ann.scheduler.grouping import best_count, leaves_time
from stream_ann.scheduler.paths import Choice, InOrder, Outlook, Path
from stream_ann.scheduler.policies import Moment, Policy, UntilNextFrame
from stream_ann.scheduler.protocols import Engine, FrameSlot, Waiter
from stream_ann.scheduler.running import Runner
from stream_ann.scheduler.sources import Job, Partial, SourceWork

__all__ = ["Scheduler"]

POLL_S = 0.1
"""How long one wait for a frame lasts at most, in seconds: the bound on how late a stop is noticed."""
BACKGROUND_POLL_S = 0.002
"""The same while a step runs in the background, whose end does not wake anybody."""
RETHINK_S = 0.005
"""The same while a step is held back for the sake of other sources' frames."""
SHORTEST_WAIT_S = 1e-6
"""Never no time at all, or a rounding error could stand still for ever."""


class Scheduler:
    """Takes frames from one slot or several and refines each until its policy ends it.

    The first step of a frame always runs, so that every frame taken has an answer; from then on the path says which
    step is next, and the policy whether it runs. With several sources each has its first exit before anyone has a
    deeper one: the source whose next frame is nearest comes first. Then the frames in the works go on, the one first
    that gains most accuracy for each millisecond. Frames that want the same step run it together where the engine says
    that this is faster. Runs in the thread that iterates over :meth:`results`.

    Args:
        engine: Runs the steps. It needs a lane for each source to hold its frame between two steps; with fewer, the
            frame with the least to gain ends when another wants in.
        slots: Gives the frames; one for each source.
        clock: Tells the time; the one that stamped the frames' arrivals.
        classes: Name of each class of the plan.
        policy: When to stop refining a frame.
        path: Which steps a frame goes through; by default all of them, in order.
        readout: Which answer the exits reached give together.
        labelling: What an answer is called; by default each class by its own name.
        top_k: How many classes a result lists.
        waiter: Waits for several slots at once; for a single one it is the slot itself.
        queue_depth: How many steps of a frame the engine is given at once, where it can queue them. More than one hides
            the gaps between them, and delays a newer frame by as many steps.
        background: Refines a key frame beside the frames that come; for one source.
        on_error: Called with the number of a source, of several, that ended with an error, and the error.

    Raises:
        ValueError: If names, slots or lanes do not fit.
    """

    def __init__(
        self,
        engine: Engine,
        slots: FrameSlot | Sequence[FrameSlot],
        clock: Clock,
        *,
        classes: Sequence[str],
        policy: Policy | None = None,
        path: Path | None = None,
        readout: Readout | None = None,
        labelling: Labelling | None = None,
        top_k: int = 5,
        waiter: Waiter | None = None,
        queue_depth: int = 1,
        background: Background | None = None,
        on_error: Callable[[int, Exception], None] | None = None,
    ) -> None:
        if len(classes) != engine.plan.classes:
            raise ValueError(f"the plan answers with {engine.plan.classes} classes, got {len(classes)} names")
        several = list(slots) if isinstance(slots, Sequence) else [slots]
        if not several or (waiter is None and len(several) > 1):
            raise ValueError(f"one slot, or several with a waiter, are needed, got {len(several)} without")
        self._runner = Runner(engine, clock)
        lanes = self._runner.lanes
        if background is not None and (len(several) > 1 or lanes < 2):
            raise ValueError(f"a background needs one source and two lanes, got {len(several)} and {lanes}")
        self._clock = clock
        self._policy = policy if policy is not None else UntilNextFrame()
        self._labelling = labelling if labelling is not None else Plain(classes)
        self._readout = readout if readout is not None else Latest()
        self._top_k = top_k
        chosen = path if path is not None else InOrder(engine.plan)
        self._sources = [SourceWork(slot, chosen.for_source()) for slot in several]
        self._waiter: Waiter = waiter if waiter is not None else several[0]
        self._queue_depth = queue_depth if self._runner.queues else 1
        self._background = background
        if background is not None:
            background.attach(self._runner, clock)
        self._on_error = on_error
        self._free = list(range(lanes - (background is not None)))
        self._stop = threading.Event()
        self.step_times = self._runner.times
        """Running time of each step."""
        self.partial: Partial | None = None
        """The answer so far of the frame that ran last; replaced as a whole, so that other threads can read it."""

    @property
    def partials(self) -> tuple[Partial | None, ...]:
        """The answer so far of each source's present frame. Safe from any thread."""
        return tuple(source.partial for source in self._sources)

    @property
    def errors(self) -> tuple[Exception | None, ...]:
        """What ended each source, where it did not end well. Safe from any thread."""
        return tuple(source.error for source in self._sources)

    def stop(self) -> None:
        """End the results: the present frames are handed out with the exits that they have. Safe from any thread."""
        self._stop.set()

    def results(self) -> Iterator[FrameResult]:
        """One result for each frame taken, until every slot has ended or :meth:`stop` was called.

        Raises:
            SourceError: What ended the source, after the last frame's result. Of several sources one may fail, and the
                others go on; once none is left, the first error is raised if all of them have failed.
            DeviceError: If the device failed.
        """
        while True:
            stopping = self._stop.is_set()  # asked once: what stops in between is handed out the next time round
            yield from self._finished()
            if stopping:
                return
            wanting = self._wanting()
            if wanting and not self._free:
                yield self._evicted()
            if wanting:
                self._begin(wanting)
            elif not self._go_on() and not self._refine_behind():
                if all(source.over for source in self._sources):
                    self._raise_if_all_failed()
                    return
                self._wait()

    # the frames that are done

    def _finished(self) -> Iterator[FrameResult]:
        """The results of all frames that end now; and what each of the others does next."""
        now_s = self._clock.now_s()
        sharers = sum(source.job is not None for source in self._sources)
        for source in self._sources:
            if source.job is None:
                continue
            ended = self._decide(source, source.job, now_s, sharers)
            if ended is not None:
                yield self._result(source, source.job, ended)

    def _decide(self, source: SourceWork, job: Job, now_s: float, sharers: int) -> Ended | None:
        """Choose what a frame does next; or why it ends now."""
        outlook = self._outlook(source, job, now_s, sharers)
        job.choice = Choice(job.queue[0]) if job.queue else source.path.choose(outlook)
        if self._background is not None and not job.queue:
            job.choice = self._background.limited(job.frame, outlook, job.choice)
        step, wait_s = job.choice
        if step is None and wait_s <= 0:
            done = job.last == len(self._runner.plan) - 1 or self._policy.deadline_s is None
            return "complete" if done else "deadline"
        if self._stop.is_set():
            return "stopped"
        assert job.answer is not None  # the first step ran when the frame was taken
        assert job.last is not None
        newer = source.slot.newer_waiting() and not source.path.insists(job.last)
        verdict = self._policy.verdict(
            Moment(
                now_s=now_s,
                arrival_s=job.frame.arrival_s,
                next_step_s=0.0 if step is None else self.step_times.p95_s(step),
                newer_waiting=newer,
                confidence=job.answer.confidence,
            )
        )
        return "newer-frame" if verdict is None and step is None and newer else verdict

    def _outlook(self, source: SourceWork, job: Job, now_s: float, sharers: int) -> Outlook:
        return source.outlook(
            now_s,
            now_s - job.frame.arrival_s,
            self.step_times,
            last=job.last,
            deadline_s=self._policy.deadline_s,
            sharers=sharers,
            exits=(*(e.exit for e in job.exits), *job.queue),
        )

    def _result(self, source: SourceWork, job: Job, ended: Ended) -> FrameResult:
        assert job.answer is not None
        source.job = None
        if source.memory is not None:
            source.memory.add(job.frame, job.predictions)
        self._free.append(job.lane)
        settled = self._labelling.settle(job.frame, job.answer, final=True)
        names = self._labelling.names
        return FrameResult(
            frame=job.frame,
            label=settled.label,
            class_id=settled.answer.class_id,
            confidence=settled.confidence,
            top=tuple((names[c], p) for c, p in settled.answer.top(self._top_k)),
            exit=job.answer.exit,
            exits=job.exits,
            budget_ms=self._budget_ms(source, job, ended),
            replaced_before=job.replaced_before,
            ended=ended,
            key_frame=job.key_frame,
            carried=job.carried,
        )

    def _budget_ms(self, source: SourceWork, job: Job, ended: Ended) -> float | None:
        """The deadline, or the gap to the newer frame that ended this one, whichever is shorter."""
        known = [] if self._policy.deadline_s is None else [self._policy.deadline_s]
        newer_s = source.slot.next_arrival_s if ended == "newer-frame" else None
        if newer_s is not None:
            known.append(newer_s - job.frame.arrival_s)
        return min(known) * 1e3 if known else None

    def _evicted(self) -> FrameResult:
        """The result of the frame that has least to gain, ended to make room for another source's."""
        now_s = self._clock.now_s()
        working = [(source, source.job) for source in self._sources if source.job is not None]
        source, job = min(working, key=lambda pair: self._gain_per_s(pair[0], pair[1], now_s, len(working)))
        return self._result(source, job, "newer-frame")

    # the frames that begin

    def _wanting(self) -> list[SourceWork]:
        """The sources with a frame to take, the most urgent first."""
        now_s = self._clock.now_s()
        wanting = []
        for number, source in enumerate(self._sources):
            over = source.over
            if source.look(now_s):
                wanting.append(source)
            elif source.error is not None and not over and len(self._sources) > 1 and self._on_error is not None:
                self._on_error(number, source.error)
        if len(wanting) > 1:
            wanting.sort(key=lambda source: source.urgency(now_s, self._policy.deadline_s))
        return wanting

    def _begin(self, wanting: Sequence[SourceWork]) -> None:
        """Take the most urgent frame and run its first step, together with others that want the same one."""
        now_s = self._clock.now_s()
        sharers = sum(source.job is not None for source in self._sources) + len(wanting)

        def first_step(source: SourceWork) -> int:
            outlook = source.outlook(
                now_s,
                source.waited_s(now_s),
                self.step_times,
                last=None,
                deadline_s=self._policy.deadline_s,
                sharers=sharers,
            )
            step = source.path.choose(outlook).step
            assert step is not None  # a path begins with a step
            return step

        step = first_step(wanting[0])
        alike = [wanting[0]]
        if len(self._free) > 1:
            alike += [source for source in wanting[1:] if first_step(source) == step]
        left_s = alike[0].due_s(self._policy.deadline_s) - now_s
        count = best_count(lambda n: self._runner.together_s(step, n), min(len(alike), len(self._free)), left_s)
        group: dict[int, list[tuple[SourceWork, Job]]] = {}
        for source in alike[:count]:
            lane = min(self._free)
            job = source.take(lane, now_s)
            if job is None:  # closed from outside meanwhile
                continue
            self._free.remove(lane)
            self._runner.start(job.frame.image, lane)
            if self._background is not None:
                self._background.see(job.frame)
            cut = source.watch is not None and source.watch.see(job.frame)
            # what was chosen before anybody had looked at the frame was meant for the scene before
            group.setdefault(first_step(source) if cut else step, []).append((source, job))
        for step, alike_jobs in group.items():
            self._run(step, alike_jobs)

    # the frames in the works

    def _go_on(self) -> bool:
        """Run the most promising step of the frames in the works; False if none is to run now."""
        now_s = self._clock.now_s()
        working = [(s, s.job) for s in self._sources if s.job is not None and s.job.choice.step is not None]
        if len(self._sources) > 1:
            time_for = self._time_for(now_s)
            working = [pair for pair in working if time_for(pair[1].choice.step or 0, 1)]
            working.sort(key=lambda pair: -self._gain_per_s(pair[0], pair[1], now_s, len(working)))
        if not working:
            return False
        step = working[0][1].choice.step
        assert step is not None
        if self._queue_depth > 1 and (len(working) == 1 or working[0][1].queue):
            self._run_queued(*working[0], depth=self._queue_depth if len(working) == 1 else 1)
            return True
        alike = [pair for pair in working if pair[1].choice.step == step and not pair[1].queue]
        count = best_count(lambda n: self._runner.together_s(step, n), len(alike), math.inf)
        while count > 1 and not time_for(step, count):
            count //= 2
        self._run(step, alike[:count])
        return True

    def _time_for(self, now_s: float) -> Callable[[int, int], bool]:
        """Whether a step, run for so many frames from now on, lets every source's next frame be answered in time."""
        expected = [source.expected(now_s, self._policy.deadline_s) for source in self._sources]
        frames = [frame for frame in expected if frame is not None]
        first_s = self._runner.first_s(len(frames))

        @functools.cache
        def time_for(step: int, count: int) -> bool:
            takes_s = self.step_times.p95_s(step) if count == 1 else self._runner.together_s(step, count)
            return takes_s is None or leaves_time(now_s + takes_s, first_s, frames)

        return time_for

    def _gain_per_s(self, source: SourceWork, job: Job, now_s: float, sharers: int) -> float:
        """The accuracy to be expected of a frame's next step, for each second that it takes."""
        step = job.choice.step
        if step is None:
            return 0.0
        gain = source.path.gain(self._outlook(source, job, now_s, sharers), step)
        return gain / max(self.step_times.typical_s(step), 1e-9)

    def _run(self, step: int, group: Sequence[tuple[SourceWork, Job]]) -> None:
        answers = self._runner.run_all(step, [job.lane for _, job in group])
        done_s = self._clock.now_s()
        for (source, job), probabilities in zip(group, answers, strict=True):
            job.last = step
            self._note(source, job, Prediction(step, self._labelling.group(probabilities), done_s))

    def _run_queued(self, source: SourceWork, job: Job, *, depth: int) -> None:
        """Keep the engine supplied with so many of the frame's steps, and take the answer of the oldest."""
        begun_s = self._clock.now_s()
        elapsed_s = begun_s - job.frame.arrival_s
        if not job.queue and job.choice.step is not None:
            self._runner.submit(job.choice.step, job.lane)
            job.queue.append(job.choice.step)
        elapsed_s += sum(self.step_times.typical_s(step) for step in job.queue)
        while len(job.queue) < depth:
            deadline_s = self._policy.deadline_s
            exits = (*(e.exit for e in job.exits), *job.queue)
            ahead = source.outlook(
                begun_s, elapsed_s, self.step_times, last=job.queue[-1], deadline_s=deadline_s, sharers=1, exits=exits
            )
            step = source.path.choose(ahead).step
            if step is None:
                break
            self._runner.submit(step, job.lane)
            job.queue.append(step)
            elapsed_s += self.step_times.typical_s(step)
        answer = self._runner.collect(job.lane, timeout_s=None)
        assert answer is not None  # it was waited for
        done_s = self._clock.now_s()
        step = job.last = job.queue.popleft()
        self.step_times.add(step, done_s - begun_s if answer.device_s is None else answer.device_s)
        self._note(source, job, Prediction(step, self._labelling.group(answer.probabilities), done_s))

    def _note(self, source: SourceWork, job: Job, prediction: Prediction) -> None:
        """Take an exit's answer into the frame's."""
        job.predictions.append(prediction)
        self._settle(source, job, prediction)

    def _settle(self, source: SourceWork, job: Job, new: Prediction | None = None) -> None:
        """Read out the frame's answer, and show it, with what the new exit says."""
        job.answer = self._readout.answer(job.predictions)
        if source.memory is not None:
            if new is not None:
                source.memory.doubt(new)
            joined = source.memory.joined(job.frame, job.predictions)
            job.answer, job.carried, job.key_frame = joined.answer, joined.carried, joined.key_frame
        if self._background is not None:
            job.answer, job.key_frame, job.carried = self._background.joined(job.frame, job.answer)
        settled = self._labelling.settle(job.frame, job.answer, final=False)
        if new is not None:
            done_ms = (new.done_s - job.frame.arrival_s) * 1e3
            shown = settled.label if settled.hedged else None
            job.exits += (ExitAnswer(new.exit, new.class_id, new.confidence, done_ms, shown),)
        self.partial = source.partial = Partial(
            job.frame,
            settled.label,
            settled.confidence,
            job.exits,
            settled.answer,
            self._labelling.names,
            self._top_k,
            job.carried,
            job.key_frame,
        )

    # nothing to do

    def _refine_behind(self) -> bool:
        """Run a step of the key frame in the time that is left; False where there is nothing to do or no time."""
        if self._background is None or not self._background.advance(self._labelling):
            return False
        source, deep = self._sources[0], self._background.news()
        if source.job is not None and deep is not None:
            reached = {answer.exit for answer in source.job.exits}
            if deep.frame is source.job.frame and deep.prediction.exit not in reached:
                self._note(source, source.job, deep.prediction)
            else:
                self._settle(source, source.job)
        return True

    def _wait(self) -> None:
        """Wait for a frame, the end of a source, or the time at which a frame in the works wants to go on."""
        now_s = self._clock.now_s()
        wait_s = POLL_S
        if self._background is not None and self._background.busy:
            wait_s = BACKGROUND_POLL_S
        for source in self._sources:
            if (job := source.job) is not None:
                wait_s = min(wait_s, job.choice.wait_s if job.choice.step is None else RETHINK_S)
                if self._policy.deadline_s is not None:
                    wait_s = min(wait_s, job.frame.arrival_s + self._policy.deadline_s - now_s)
        self._waiter.wait(max(SHORTEST_WAIT_S, wait_s))

    def _raise_if_all_failed(self) -> None:
        errors = [error for error in self.errors if error is not None]
        if len(errors) == len(self._sources):
            raise errors[0]
