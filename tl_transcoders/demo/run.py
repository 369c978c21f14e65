"""The demo: what the model predicts, how far transcoders can stand for its MLPs, what one feature does, and a circuit."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tl_transcoders.demo.circuit import key_nodes, strongest_edges, strongest_paths, summary, traced
from tl_transcoders.demo.data import PROMPT, greater_than_score, training_tokens
from tl_transcoders.demo.features import ActiveFeature, active_features
from tl_transcoders.demo.loading import load_model, load_transcoders
from tl_transcoders.demo.measure import HELD_OUT, Logits, mean_score
from tl_transcoders.demo.vocabulary import two_digit_ids
from tl_transcoders.evaluation import Report, evaluate
from tl_transcoders.splice import Mode, Spliced, splice

YEAR = 42
N_FEATURES = 5
_TWO_DIGITS = two_digit_ids().tolist()
_YEARS = set(_TWO_DIGITS)
_IMPOSSIBLE = _TWO_DIGITS[: YEAR + 1]


def run(console: Console, out: Path) -> None:
    """Print the whole demo, and write the page of its graph."""
    model = load_model()
    tokens = model.to_tokens(PROMPT)
    console.rule("What the model predicts")
    console.print(f"[bold]{PROMPT}[/]…", _prediction(model, model), _SCORE_LEGEND, sep="\n")
    console.print(f"Here: {prompt_score(model, model):.3f}\n")
    with splice(model, load_transcoders("skip")) as spliced:
        console.rule("Transcoders in the place of all MLPs")
        report = evaluate(spliced, training_tokens(64, seed=-2), batch_size=64)
        console.print(_kind(spliced), comparison(spliced, report), _legend(report), sep="\n")
        ranked = by_effect(model, active_features(spliced, tokens))
        console.rule("Features at the last position")
        console.print(feature_table(model, ranked), _FEATURES_LEGEND, sep="\n")
        strongest = ranked[0][0]
        console.rule(f"{strongest.name} switched off")
        console.print(switched_off(model, strongest), conclusion(model, strongest), sep="\n")
    console.rule("How the answer comes about")
    graph = traced(model)
    pruned = graph.prune()
    console.print(summary(graph, pruned), key_nodes(pruned), strongest_edges(pruned), sep="\n")
    console.print(strongest_paths(pruned), highlight=False)
    pruned.save_html(out)
    console.print(f"All of it as a page: {out}\n", soft_wrap=True)
    console.print("The transcoders are out again, and the model is what it was.")


def comparison(spliced: Spliced, report: Report) -> Table:
    """Loss, greater-than score and KL of the original, the spliced and the ablated model."""
    effects = (report.original, report.spliced, report.ablated)
    table = Table("", "original", "spliced", "MLPs ablated")
    table.add_row("loss, nats per token", *(f"{effect.loss:.3f}" for effect in effects))
    table.add_row("greater-than score", *(f"{score:.3f}" for score in _scores(spliced)))
    table.add_row("KL(original ‖ ·), nats", *(f"{effect.kl:.3f}" for effect in effects))
    return table


def by_effect(model: Any, features: list[ActiveFeature]) -> list[tuple[ActiveFeature, float]]:
    """The features with what the score of the prompt loses when each is switched off, largest loss first."""
    score = prompt_score(model, model)
    losses = [score - prompt_score(model, feature.without(model)) for feature in features]
    return sorted(zip(features, losses, strict=True), key=lambda pair: -pair[1])


def feature_table(model: Any, ranked: list[tuple[ActiveFeature, float]]) -> Table:
    """The features whose absence costs most, and the tokens each of them pushes."""
    title = f"the first {N_FEATURES} of {len(ranked)} active features"
    table = Table("feature", "activation", "score lost", "raises", "lowers, of years", title=title)
    for feature, loss in ranked[:N_FEATURES]:
        raised = raised_tokens(model, feature)
        years = [token for token in feature.push.argsort().tolist() if token in _YEARS]
        cells = (feature.name, f"{feature.activation:.2f}", f"{loss:+.3f}")
        table.add_row(*cells, _words(model, raised), _words(model, years[:6]))
    return table


def raised_tokens(model: Any, feature: ActiveFeature) -> list[int]:
    """The six tokens it pushes up most; special ones, which no text goes on with, left out."""
    special = set(model.tokenizer.all_special_ids)
    order = feature.push.argsort(descending=True).tolist()
    return [token for token in order if token not in special][:6]


def switched_off(model: Any, feature: ActiveFeature) -> Table:
    """The answer of the spliced model, with and without one feature."""
    both: tuple[Logits, Logits] = (model, feature.without(model))
    table = Table("spliced model", "as it is", f"{feature.name} = 0", show_lines=True)
    table.add_row("most likely next", *(_prediction(model, logits) for logits in both))
    for name, ids in _watched(model, feature).items():
        table.add_row(f"p({name})", *(f"{_share(model, f, ids):.1%}" for f in both))
    table.add_row("score of this prompt", *(f"{prompt_score(model, f):.3f}" for f in both))
    table.add_row("score of all prompts", *(f"{mean_score(logits):.3f}" for logits in both))
    return table


def conclusion(model: Any, feature: ActiveFeature) -> str:
    """What the difference says, in a sentence."""
    without = feature.without(model)
    changes = [
        f"{name} from {_share(model, model, ids):.1%} to {_share(model, without, ids):.1%}"
        for name, ids in _watched(model, feature).items()
    ]
    return (
        f"Without {feature.name} the probability goes, for {' and for '.join(changes)}: it is one of the features "
        f"that push the answer above {YEAR}, and others do the rest.\n"
    )


def prompt_score(model: Any, logits: Logits) -> float:
    """The greater-than score of the prompt."""
    with torch.no_grad():
        last = logits(model.to_tokens(PROMPT))[:, -1]
    return float(greater_than_score(last, torch.tensor([YEAR])))


def _watched(model: Any, feature: ActiveFeature) -> dict[str, list[int]]:
    raised = raised_tokens(model, feature)
    return {_words(model, raised): raised, f"years up to {YEAR}": _IMPOSSIBLE}


def _share(model: Any, logits: Logits, ids: list[int]) -> float:
    """The probability of these tokens together, next after the prompt."""
    with torch.no_grad():
        return float(logits(model.to_tokens(PROMPT))[0, -1].softmax(-1)[ids].sum())


def _scores(spliced: Spliced) -> list[float]:
    """Of the original, the spliced and the ablated model."""
    scores = []
    for mode in (Mode.ORIGINAL, Mode.TRANSCODER, Mode.ABLATED):
        with spliced.running(mode):
            scores.append(mean_score(spliced.model))
    return scores


def _prediction(model: Any, logits: Logits) -> str:
    """The most likely next tokens of the prompt."""
    with torch.no_grad():
        p = logits(model.to_tokens(PROMPT))[0, -1].softmax(-1).topk(6)
    likely = zip(p.values.tolist(), p.indices.tolist(), strict=True)
    return ", ".join(f"{_words(model, [token])} {share:.1%}" for share, token in likely)


def _words(model: Any, ids: list[int]) -> str:
    return " ".join(model.tokenizer.decode([token]).strip() for token in ids)


def _kind(spliced: Spliced) -> str:
    layers, first = spliced.layers, next(iter(spliced.hooked.values())).transcoder
    return (
        f"Layers {layers[0]} to {layers[-1]}, each {first.cfg.d_in} → {first.cfg.n_features} features → "
        f"{first.cfg.d_out}, {first.cfg.activation}, with a skip connection."
    )


_SCORE_LEGEND = (
    f"Greater-than score: the probability of all years above {YEAR}, less that of all years up to {YEAR}; "
    "1 is always right."
)


def _legend(report: Report) -> str:
    fvu = ", ".join(f"{layer.fvu:.3f}" for layer in report.layers.values())
    return (
        f"Loss and KL on {report.n_tokens:,} tokens. Score: the mean over all prompts, years 01 … 98 and "
        f"{len(HELD_OUT)} pairs of noun and century that had no span in training. Ablated MLPs return 0. "
        f"Fraction of variance unexplained by layer: {fvu}.\n"
    )


_FEATURES_LEGEND = (
    "f3.402 is feature 402 of layer 3. Score lost: of this prompt, when the feature is set to 0 at every position. "
    "Raises, lowers: the tokens it pushes most by its decoder row, through the final norm with its scale held; "
    "strongest first.\n"
)
