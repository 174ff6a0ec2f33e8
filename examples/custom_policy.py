"""A sampler of your own: reveal every position up to and including the first uncertain one."""

import unmask
from unmask.policies import Needs


class FirstUncertain:
    """Left to right: all that is certain, and the first position that is not."""

    name = "first-uncertain"
    needs = Needs()  # the largest probability at each position

    def act(self, observation, generator):
        uncertain = (observation.confidence[..., 0] < 0.9) & observation.eligible
        before = uncertain.cumsum(1) - uncertain.long()  # uncertain positions before each
        return observation.eligible & (before == 0)


model = unmask.load_model("embedded/chain")
task = unmask.load_task("chain")
rivals = ["threshold:0.9", "entropy:0.3", FirstUncertain()]
for point in unmask.evaluate(model, task, rivals, prompts=64):
    print(f"{point.sampler:<20} {100 * point.accuracy:5.1f} % in {point.nfe:4.1f} passes")
