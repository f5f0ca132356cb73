"""The number of threads for a single row, found by trying."""
import functools


class Tuner:
    """Finds the number of threads with which a pass over one row is fastest now, and keeps looking.

    The next token is the same work as the last, so their times can be compared. Every few tokens, one is computed with
    more or fewer threads. Next to busy processes such a trial may cost as much as 20 tokens, so after a trial that
    lost time, the next one waits until that loss is no more than 5% of the time in between. With fewer threads it is
    1%: a load that slows the best number down shows without a trial.
    """

    MAX_LOSS, MAX_LOSS_OF_FEWER = 0.05, 0.01  # of the time, for trials
    MIN_PASSES = 8  # between two trials of the same number

    def __init__(self, n_max: int):
        steps = {2**i * m // 2 for i in range(1, 20) for m in (2, 3)} | {1, n_max}  # 1, 2, 3, 4, 6, 8, 12, ...
        self.choices = sorted(n for n in steps if n <= n_max)
        self.best = (len(self.choices) - 1) // 2  # half of the threads: never far from the fastest
        self.means: dict[int, float] = {}  # running means of seconds
        self.due: dict[int, float] = {}  # when to try a choice again, on `clock`
        self.clock = 0.0  # the seconds of all passes so far

    def next(self) -> int:
        """The choice for the next pass: the best one, or a neighbour that it is time to try."""
        if self.best in self.means:
            for neighbour in (self.best + 1, self.best - 1):
                if 0 <= neighbour < len(self.choices) and self.clock >= self.due.get(neighbour, 0):
                    return neighbour
        return self.best

    def learn(self, choice: int, seconds: float) -> None:
        """Take in how long a pass with this choice took."""
        self.clock += seconds
        weight = 1 / 8 if choice == self.best else 1 / 2
        mean = self.means.get(choice, seconds)
        self.means[choice] = mean + weight * (seconds - mean)
        best = self.means[self.best]
        if choice == self.best:
            fewer = self.means.get(choice - 1, float("inf"))
            if fewer < best:  # a load has come, which slows fewer threads down less
                self.best = choice - 1
        elif self.means[choice] < best:
            self.best = choice
        elif seconds >= best:
            max_loss = self.MAX_LOSS_OF_FEWER if choice < self.best else self.MAX_LOSS
            self.due[choice] = self.clock + max((seconds - best) / max_loss, self.MIN_PASSES * best)


@functools.lru_cache(maxsize=16)
def tuner_for(n_layer: int, n_embd: int, n_max: int, has_hook: bool) -> Tuner:
    """The tuner for models of this size; with a hook, which takes time too, there is another."""
    return Tuner(n_max)
