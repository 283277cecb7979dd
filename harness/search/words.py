"""What may be claimed of a configuration that a search has chosen."""

from __future__ import annotations

from harness.report.flags import attack_is_dead
from harness.search.standing import Found


def honesty(found: Found) -> list[str]:
    """Return what stands beside every number of what was chosen."""
    if not found.chosen:
        return ["no configuration has all its trials: nothing is chosen."]
    search, one = found.search, found.chosen[0]
    whole = sum(s.whole for s in found.standings)
    lines = [
        f"chosen from {len(found.standings)} configurations ({search.algorithm}; {whole} with all "
        f"trials): {search.objective}."
    ]
    success = (found.undefended or {}).get("poison_success")
    if success is not None and attack_is_dead(success.value, None):
        lines.append(
            f"WITHOUT A DEFENSE POISON SUCCESS IS {100 * success.value:.1f} %: there is nothing to "
            "defend against, and the choice is one among noise."
        )
    if not one.keeps:
        lines.append("no configuration keeps every bound; this one misses them by least.")
    lines.append(
        "SELECTED ON THE TEST SET: its numbers above are the best of many, so they flatter it, "
        "and their intervals do not know of the choice."
    )
    if found.held_out is None:
        lines.append("give search.report (other targets or seeds) for numbers to report.")
    else:
        lines.append(
            "Numbers to report are those on the targets and seeds of search.report, none of which "
            "it was chosen by; the clean test images are the same."
        )
    if search.halving:
        lines.append(
            "early_stop halving: a dropped configuration was judged on its first trials alone, "
            "each trained in full."
        )
    return lines
