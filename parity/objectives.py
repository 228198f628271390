# Golden numbers for hone-objective, from PyTorch's automatic differentiation in double precision.
#
#   python 3.11, torch 2.15.0
#   pip install torch==2.15.0
#   python parity/objectives.py            writes parity/golden/objectives/*.json
#
# The formulas are those that OpenAI's lm-human-preferences (commit 1ab856d) and TRL 0.11 define. They differ in the divisor of the
# whitening's variance, of which both are written, and in the place of the score, which here is the last token as in the former.
# Inputs are multiples of 1/256, which a 32-bit float holds exactly.

import json
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
OUT = Path(__file__).parent / "golden" / "objectives"


def numbers(rng, *shape, scale=1.0, shift=0.0):
    """Normal numbers, rounded to multiples of 1/256."""
    count = math.prod(shape)
    flat = [round((rng.gauss(0, 1) * scale + shift) * 256) / 256 for _ in range(count)]
    return torch.tensor(flat).reshape(shape)


def right_padding(lengths, width):
    return torch.tensor([[t < length for t in range(width)] for length in lengths])


def flat(x):
    return x.detach().flatten().tolist()


def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum()


def write(name, content):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


def cross_entropy():
    rng = random.Random(1)
    logprobs = numbers(rng, 12, scale=2, shift=-4).clamp(max=-1 / 256).requires_grad_()
    mask = torch.tensor([rng.random() < 0.7 for _ in range(12)])
    # nll_loss over a vocabulary of one column; -100 is PyTorch's label for what does not count
    labels = torch.where(mask, 0, -100)
    loss = F.nll_loss(logprobs.unsqueeze(1), labels)
    loss.backward()
    write("cross_entropy", {
        "logprobs": flat(logprobs), "mask": mask.tolist(), "loss": loss.item(), "grad": flat(logprobs.grad),
        "perplexity": loss.exp().item(),
    })


def bradley_terry():
    rng = random.Random(2)
    prompts = []
    losses = []
    leaves = []
    for k in [2, 4, 9, 3, 5]:
        scores = numbers(rng, k, scale=1.5).requires_grad_()
        # The last two prompts have ties; ties are left out of the mean
        ranks = rng.sample(range(k), k) if k not in (3, 5) else [rng.randrange(2) for _ in range(k - 1)] + [2]
        pairs = [(i, j) if ranks[i] < ranks[j] else (j, i)
                 for i in range(k) for j in range(i + 1, k) if ranks[i] != ranks[j]]
        margins = [rng.randrange(0, 4) / 4 for _ in pairs] if k in (4, 5) else None
        better = torch.stack([scores[i] for i, _ in pairs])
        worse = torch.stack([scores[j] for _, j in pairs])
        margin = torch.tensor(margins) if margins else torch.zeros(len(pairs))
        losses.append(-F.logsigmoid(better - worse - margin).mean())
        leaves.append(scores)
        prompts.append({"scores": flat(scores), "ranks": ranks, "margins": margins,
                        "accuracy": (better > worse).double().mean().item()})
    loss = torch.stack(losses).mean()
    loss.backward()
    for prompt, part, scores in zip(prompts, losses, leaves):
        prompt["loss"] = part.item()
        prompt["grad"] = flat(scores.grad)
    write("bradley_terry", {"loss": loss.item(), "prompts": prompts})


def ppo():
    rng = random.Random(3)
    b, t = 3, 6
    mask = right_padding([6, 4, 2], t)
    old = numbers(rng, b, t, scale=1, shift=-3)
    advantages = numbers(rng, b, t)
    old_values = numbers(rng, b, t)
    returns = numbers(rng, b, t)
    logprobs = (old + numbers(rng, b, t, scale=0.3)).requires_grad_()
    values = (old_values + numbers(rng, b, t, scale=0.3)).requires_grad_()
    cases = []
    for low, high, value_clip in [(0.2, 0.2, 0.2), (0.2, 0.28, 0.1)]:
        logprobs.grad = values.grad = None
        ratio = torch.exp(logprobs - old)
        unclipped = -advantages * ratio
        clipped = -advantages * torch.clamp(ratio, 1 - low, 1 + high)
        policy = masked_mean(torch.max(unclipped, clipped), mask)
        near = torch.clamp(values, old_values - value_clip, old_values + value_clip)
        errors, near_errors = (values - returns) ** 2, (near - returns) ** 2
        value = 0.5 * masked_mean(torch.max(errors, near_errors), mask)
        (policy + value).backward()
        cases.append({
            "low": low, "high": high, "value_clip_range": value_clip,
            "policy_loss": policy.item(), "policy_grad": flat(logprobs.grad),
            "policy_clipfrac": masked_mean((clipped > unclipped).double(), mask).item(),
            "approxkl": 0.5 * masked_mean((logprobs - old) ** 2, mask).item(),
            "ratio": masked_mean(ratio, mask).item(),
            "ratio_var": ratio[mask].var(unbiased=False).item(),
            "value_loss": value.item(), "value_grad": flat(values.grad),
            "value_clipfrac": masked_mean((near_errors > errors).double(), mask).item(),
            "explained_variance": (1 - (returns - values)[mask].var() / returns[mask].var()).item(),
        })
    write("ppo", {
        "mask": flat(mask), "old_logprobs": flat(old), "advantages": flat(advantages), "logprobs": flat(logprobs),
        "old_values": flat(old_values), "returns": flat(returns), "values": flat(values), "cases": cases,
    })


def rollout():
    """Rewards, advantages and whitening of padded responses."""
    rng = random.Random(4)
    b, t = 4, 5
    lengths = [5, 3, 1, 4]
    mask = right_padding(lengths, t)
    logprobs = numbers(rng, b, t, scale=1, shift=-3)
    ref_logprobs = logprobs + numbers(rng, b, t, scale=0.4)
    values = numbers(rng, b, t)
    scores = numbers(rng, b)
    kl_coef, gamma, lam = 0.0625, 0.97, 0.9

    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    for row, length in enumerate(lengths):
        rewards[row, length - 1] += scores[row]
    # Padding has value 0 and reward 0, so the recursion passes through it unchanged
    padded = values * mask
    advantage, columns = torch.zeros(b), []
    for step in reversed(range(t)):
        following = padded[:, step + 1] if step + 1 < t else torch.zeros(b)
        delta = rewards[:, step] + gamma * following - padded[:, step]
        advantage = delta + gamma * lam * advantage
        columns.append(advantage)
    advantages = torch.stack(columns[::-1], dim=1)
    returns = advantages + padded

    def whitened(unbiased, keep_mean):
        chosen = advantages[mask]
        mean, var = chosen.mean(), chosen.var(unbiased=unbiased)
        return ((advantages - mean) * torch.rsqrt(var + 1e-8) + (mean if keep_mean else 0)) * mask

    write("rollout", {
        "lengths": [t] * b, "mask": flat(mask), "logprobs": flat(logprobs), "ref_logprobs": flat(ref_logprobs),
        "values": flat(values), "scores": flat(scores), "kl_coef": kl_coef, "gamma": gamma, "gae_lambda": lam,
        "rewards": flat(rewards), "advantages": flat(advantages * mask), "returns": flat(returns * mask),
        "kl": ((logprobs - ref_logprobs) * mask).sum(1).mean().item(),
        # lm-human-preferences divides the variance by n, TRL by n - 1
        "whiten": flat(whitened(False, False)), "whiten_keep_mean": flat(whitened(False, True)),
        "trl_whiten": flat(whitened(True, False)),
    })


def kl():
    rng = random.Random(5)
    logprobs = numbers(rng, 10, scale=1, shift=-3)
    ref_logprobs = logprobs + numbers(rng, 10, scale=0.7)
    mask = torch.tensor([rng.random() < 0.8 for _ in range(10)])
    estimators = {}
    for name, estimate in {
        "k1": lambda d: d,
        "k2": lambda d: 0.5 * d**2,
        "k3": lambda d: torch.exp(-d) - 1 + d,
    }.items():
        policy = logprobs.clone().requires_grad_()
        loss = masked_mean(estimate(policy - ref_logprobs), mask)
        loss.backward()
        estimators[name] = {"loss": loss.item(), "grad": flat(policy.grad)}
    coefs, coef = [], 0.15
    updates = [3.0, 7.0, 40.0, 6.5, -1.0, 5.9]
    for value in updates:
        coef *= 1 + min(max(value / 6.0 - 1, -0.2), 0.2) * 64 / 10000
        coefs.append(coef)
    write("kl", {
        "logprobs": flat(logprobs), "ref_logprobs": flat(ref_logprobs), "mask": mask.tolist(), "estimators": estimators,
        "controller": {"episodes": 64, "kl": updates, "kl_coef": coefs},
    })


def statistics():
    rng = random.Random(6)
    x, y = numbers(rng, 9), numbers(rng, 9, scale=2, shift=1)
    y = y + x
    points = [1e-12, 0.001, 0.02, 0.3, 0.5, 0.8, 0.975, 0.9999]
    quantiles = torch.special.ndtri(torch.tensor(points))
    write("statistics", {
        "x": flat(x), "y": flat(y), "pearson": torch.corrcoef(torch.stack([x, y]))[0, 1].item(),
        "points": points, "normal_quantiles": flat(quantiles),
    })


if __name__ == "__main__":
    for generate in [cross_entropy, bradley_terry, ppo, rollout, kl, statistics]:
        generate()
