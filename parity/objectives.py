# Golden numbers for hone-objective, from PyTorch's automatic differentiation in double precision.
#
#   python 3.11, torch 2.15.0, trl 1.16.0 with transformers 5.23.0
#   pip install torch==2.15.0 trl==1.16.0 transformers==5.23.0
#   python parity/objectives.py            writes parity/golden/objectives/*.json
#
# Up to `statistics` the formulas are those that OpenAI's lm-human-preferences (commit 1ab856d) and TRL 0.11 define. They differ in the
# divisor of the whitening's variance, of which both are written, and in the place of the score, which here is the last token as in the
# former. From `preference` on, the losses are TRL's own code, called on these numbers: its trainers are made without their constructors,
# with a model that returns the log-probabilities; what TRL 1.16 lacks or buries in its sampling is a formula here, and says so.
# Inputs are multiples of 1/256, which a 32-bit float holds exactly.

import json
import math
import random
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
import torch.nn.functional as F
from trl import DPOTrainer, GRPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.rewards import get_soft_overlong_punishment

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


def bare(trainer, **attributes):
    """A trainer of TRL with nothing but the attributes that its loss reads."""
    self = object.__new__(trainer)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, sync_gradients=True,
        gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x,
    )
    defaults = {
        "accelerator": accelerator, "model": SimpleNamespace(training=True), "aux_loss_enabled": False, "_tp_size": 1,
        "_metrics": {"train": defaultdict(list)}, "_total_train_tokens": 0, "precompute_ref_logps": True,
    }
    for name, value in {**defaults, **attributes}.items():
        setattr(self, name, value)
    return self


def answering(logprobs, mask):
    """A model whose answer is these log-probabilities, whatever it is asked; masked ones are 0, as from TRL's fused head."""
    rest = torch.zeros_like(logprobs)
    outputs = SimpleNamespace(log_probs=logprobs * mask, entropy=rest, mean_logits=rest, is_top1=rest.bool())
    return lambda **_: outputs


def with_prompt(mask):
    """TRL's masks begin with the prompt; one token of it."""
    return torch.cat([torch.zeros(len(mask), 1, dtype=torch.long), mask.long()], dim=1)


def metrics(trainer, names):
    return {name: float(trainer._metrics["train"][name][-1]) for name in names}


def preference():
    rng = random.Random(7)
    pairs, t = 4, 5
    lengths = [[5, 3], [2, 4], [1, 5], [4, 4]]
    # Chosen responses first, as TRL has them; written in pairs
    mask = torch.cat([right_padding([pair[side] for pair in lengths], t) for side in (0, 1)])
    values = numbers(rng, 2 * pairs, t, scale=1.2, shift=-2.5).clamp(max=-1 / 256)
    reference = (values + numbers(rng, 2 * pairs, t, scale=0.4)).clamp(max=-1 / 256)
    ref_chosen, ref_rejected = (reference * mask).sum(1).chunk(2)
    in_pairs = lambda x: flat(torch.stack(x.detach().chunk(2), dim=1))
    rewards = ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"]
    cases = []

    def case(method, settings, run):
        logprobs = values.clone().requires_grad_()
        loss, extra = run(logprobs)
        loss.backward()
        cases.append({"method": method, **settings, "loss": loss.item(), "grad": in_pairs(logprobs.grad), **extra})

    def dpo(loss_type, beta):
        def run(logprobs):
            trainer = bare(
                DPOTrainer, beta=beta, loss_types=[loss_type], loss_weights=[1.0], label_smoothing=0.0, ld_alpha=None,
                f_divergence_type="reverse_kl", use_weighting=False,
            )
            masks = with_prompt(mask)
            loss = trainer._compute_loss(answering(logprobs, mask), {
                "input_ids": torch.zeros_like(masks), "attention_mask": torch.ones_like(masks), "completion_mask": masks,
                "ref_chosen_logps": ref_chosen, "ref_rejected_logps": ref_rejected,
            }, False)
            return loss, metrics(trainer, [*rewards, "logps/chosen", "logps/rejected"])
        return run

    def sums(logprobs):
        return (logprobs * mask).sum(1)

    def cpo(config, logps):
        def run(logprobs):
            trainer = bare(CPOTrainer, alpha=0.0, cpo_alpha=0.0, **config)
            trainer.concatenated_forward = lambda *_: (*logps(logprobs).chunk(2), *torch.zeros(3))
            loss, found = trainer.get_batch_loss_metrics(None, {})
            return loss, {name: found[name] for name in rewards}
        return run

    def orpo(beta, sft):
        def run(logprobs):
            trainer = bare(ORPOTrainer, beta=beta)
            means = (sums(logprobs) / mask.sum(1)).chunk(2)
            nll = sft(logprobs, means[0])
            trainer.concatenated_forward = lambda *_: (*means, *torch.zeros(2), nll)
            # TRL's odds are in single precision; for these numbers they are not
            with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
                loss, found = trainer.get_batch_loss_metrics(None, {})
            return loss, {name: found[name] for name in [*rewards, "nll_loss", "log_odds_ratio", "log_odds_chosen"]}
        return run

    case("dpo", {"beta": 0.25, "label_smoothing": 0.0}, dpo("sigmoid", 0.25))
    # TRL's DPO has no conservative label smoothing any more; its CPO has, and becomes DPO on ratios to the reference
    case("dpo", {"beta": 0.5, "label_smoothing": 0.125}, cpo(
        {"loss_type": "sigmoid", "beta": 0.5, "label_smoothing": 0.125},
        lambda logprobs: sums(logprobs) - torch.cat([ref_chosen, ref_rejected]),
    ))
    # TRL's DPO averages IPO's ratios per token; its CPO sums them
    case("ipo", {"beta": 0.25, "form": "per token"}, dpo("ipo", 0.25))
    case("ipo", {"beta": 0.25, "form": "summed"}, cpo(
        {"loss_type": "ipo", "beta": 0.25, "label_smoothing": 0.0},
        lambda logprobs: sums(logprobs) - torch.cat([ref_chosen, ref_rejected]),
    ))
    # The paper's mean over responses of their means, and TRL's mean over tokens
    case("orpo", {"beta": 0.5, "sft": "responses"}, orpo(0.5, lambda logprobs, chosen: -chosen.mean()))
    case("orpo", {"beta": 0.125, "sft": "tokens"}, orpo(
        0.125, lambda logprobs, chosen: -logprobs[:pairs][mask[:pairs]].mean()
    ))
    case("simpo", {"beta": 2.0, "gamma": 0.75}, cpo(
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.75, "label_smoothing": 0.0},
        lambda logprobs: sums(logprobs) / mask.sum(1),
    ))
    write("preference", {
        "lengths": [t] * (2 * pairs), "mask": in_pairs(mask), "logprobs": in_pairs(values), "ref_logprobs": in_pairs(reference),
        "cases": cases,
    })


def kto():
    rng = random.Random(8)
    b, t = 5, 4
    mask = right_padding([4, 2, 3, 1, 4], t)
    values = numbers(rng, b, t, scale=1, shift=-2.5).clamp(max=-1 / 256)
    reference = (values + numbers(rng, b, t, scale=0.4)).clamp(max=-1 / 256)
    desirable = torch.tensor([True, False, True, True, False])
    cases = []
    # Policies that moved away from the reference on mismatched responses, and one whose estimate is below 0
    for beta, good, bad, shift in [(0.25, 1.0, 1.0, -0.5), (0.5, 1.25, 0.75, -0.25), (0.25, 1.0, 1.5, 0.75)]:
        mismatched = numbers(rng, b, t, scale=1, shift=-3)
        ref_mismatched = mismatched + numbers(rng, b, t, scale=0.25, shift=shift)
        logprobs = values.clone().requires_grad_()
        trainer = bare(
            KTOTrainer, beta=beta, desirable_weight=good, undesirable_weight=bad, loss_type="kto", calculate_KL=True,
        )
        trainer._compute_kl_logps = lambda *_: (mismatched * mask).sum(1)
        masks = with_prompt(mask)
        loss = trainer._compute_loss(answering(logprobs, mask), {
            "input_ids": torch.zeros_like(masks), "attention_mask": torch.ones_like(masks), "completion_mask": masks,
            "label": desirable, "ref_logps": (reference * mask).sum(1), "ref_KL_logps": (ref_mismatched * mask).sum(1),
        }, False)
        loss.backward()
        cases.append({
            "beta": beta, "desirable_weight": good, "undesirable_weight": bad, "mismatched": flat(mismatched),
            "ref_mismatched": flat(ref_mismatched), "loss": loss.item(), "grad": flat(logprobs.grad),
            **metrics(trainer, ["kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"]),
        })
    write("kto", {
        "lengths": [t] * b, "mask": flat(mask), "logprobs": flat(values), "ref_logprobs": flat(reference),
        "desirable": desirable.tolist(), "cases": cases,
    })


def group_advantages():
    """Formulas: TRL computes advantages in the middle of its sampling, in the same way for GRPO, Dr. GRPO and RLOO."""
    rng = random.Random(9)
    groups, size = 3, 4
    scores = numbers(rng, groups, size)
    scores[2] = scores[2, 0]
    mean = scores.mean(1, keepdim=True)
    above = scores - mean
    whitened = lambda x: (x - x.mean()) * torch.rsqrt(x.var(unbiased=False) + 1e-8)
    punish = get_soft_overlong_punishment(max_completion_len=16, soft_punish_cache=6)
    write("group_advantages", {
        "scores": flat(scores), "groups": [size] * groups,
        "grpo": flat(above / (scores.std(1, keepdim=True) + 1e-4)),
        "dr_grpo": flat(above),
        "rloo": flat(scores - (scores.sum(1, keepdim=True) - scores) / (size - 1)),
        "reinforce++": flat(whitened(scores)),
        "reinforce++ baseline": flat(whitened(above)),
        "frac_reward_zero_std": torch.isclose(scores.std(1), torch.zeros(groups)).double().mean().item(),
        "max_length": 16, "cache": 6, "overlong": punish([[0] * length for length in range(20)]),
    })


def group_loss():
    rng = random.Random(10)
    b, t, limit = 4, 5, 6
    mask = right_padding([5, 1, 3, 4], t)
    # A turn of the environment in the middle of the last response
    mask[3, 1] = False
    old = numbers(rng, b, t, scale=1, shift=-2.5)
    values = old + numbers(rng, b, t, scale=0.3)
    reference = old + numbers(rng, b, t, scale=0.4)
    advantages = numbers(rng, b)
    cases = []

    def trl(loss_type, low, high, beta):
        def run(logprobs):
            trainer = bare(
                GRPOTrainer, loss_type=loss_type, beta=beta, epsilon_low=low, epsilon_high=high, top_entropy_quantile=1.0,
                off_policy_mask_threshold=None, importance_sampling_level="token", use_vllm=False, max_completion_length=limit,
                current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False,
                args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
            )
            trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs, torch.zeros(b, t), None)
            whole = torch.ones(b, t, dtype=torch.long)
            loss = trainer._compute_loss(None, {
                "prompt_ids": whole[:, :1], "prompt_mask": whole[:, :1], "completion_ids": whole, "completion_mask": mask.long(),
                "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
                "num_items_in_batch": mask.sum(),
            })
            found = metrics(trainer, ["clip_ratio/low_mean", "clip_ratio/high_mean"] + (["kl"] if beta else []))
            # TRL's shares are in single precision; their numerators are whole
            return loss, {
                "low": round(found["clip_ratio/low_mean"] * mask.sum().item()),
                "high": round(found["clip_ratio/high_mean"] * mask.sum().item()), "kl": found.get("kl"),
            }
        return run

    def formula(low, high, beta, estimate):
        """GRPO's loss with another estimate, which TRL has not."""
        def run(logprobs):
            ratio, advantage = torch.exp(logprobs - old), advantages.unsqueeze(1)
            clipped = torch.min(ratio * advantage, torch.clamp(ratio, 1 - low, 1 + high) * advantage)
            kl = estimate(logprobs - reference)
            loss = (((beta * kl - clipped) * mask).sum(1) / mask.sum(1)).mean()
            return loss, {"kl": masked_mean(kl, mask).item()}
        return run

    for weight, estimator, low, high, beta, run in [
        ("response mean", "k3", 0.2, 0.2, 0.125, trl("grpo", 0.2, 0.2, 0.125)),
        ("constant length", None, 0.2, 0.2, 0.0, trl("dr_grpo", 0.2, 0.2, 0.0)),
        ("token mean", None, 0.2, 0.28, 0.0, trl("dapo", 0.2, 0.28, 0.0)),
        ("token mean", "k3", 0.125, 0.25, 0.5, trl("dapo", 0.125, 0.25, 0.5)),
        ("response mean", "k1", 0.2, 0.2, 0.25, formula(0.2, 0.2, 0.25, lambda d: d)),
        ("response mean", "k2", 0.2, 0.2, 0.25, formula(0.2, 0.2, 0.25, lambda d: 0.5 * d**2)),
    ]:
        logprobs = values.clone().requires_grad_()
        loss, extra = run(logprobs)
        loss.backward()
        cases.append({
            "weight": weight, "estimator": estimator, "clip_low": low, "clip_high": high, "kl_coef": beta,
            "loss": loss.item(), "grad": flat(logprobs.grad), **extra,
        })
    write("group_loss", {
        "lengths": [t] * b, "mask": flat(mask), "logprobs": flat(values), "old_logprobs": flat(old),
        "ref_logprobs": flat(reference), "advantages": flat(advantages), "limit": limit, "cases": cases,
    })


def overoptimisation():
    """Gao's two forms, fitted by PyTorch's least squares."""
    rng = random.Random(11)
    kl = [0.0, 0.25, 0.5, 1.0, 2.25, 4.0, 9.0, 16.0, 30.25]
    d = torch.tensor(kl).sqrt()
    gain = 1.5 * d - 0.25 * d**2 + numbers(rng, len(kl), scale=0.125)
    fits = {}
    for name, second in {"best-of-n": -d**2, "rl": -torch.xlogy(d, d)}.items():
        columns = torch.stack([d, second], dim=1)
        solution = torch.linalg.lstsq(columns, gain.unsqueeze(1)).solution
        alpha, beta = flat(solution)
        peak = alpha / (2 * beta) if name == "best-of-n" else math.exp(alpha / beta - 1)
        error = gain - (columns @ solution).squeeze(1)
        fits[name] = {"alpha": alpha, "beta": beta, "rmse": (error**2).mean().sqrt().item(), "kl_at_peak": peak**2}
    write("overoptimisation", {"kl": kl, "gain": flat(gain), "fits": fits})


if __name__ == "__main__":
    for generate in [
        cross_entropy, bradley_terry, ppo, rollout, kl, statistics, preference, kto, group_advantages, group_loss,
        overoptimisation,
    ]:
        generate()
