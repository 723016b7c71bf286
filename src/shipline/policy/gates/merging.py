"""The merge check: whether what was judged is what a merge would make."""

from __future__ import annotations

from shipline.git import Git, GitError, is_ancestor, resolve
from shipline.policy.gates.verdict import Check, Outcome, Verdict
from shipline.units import counted


def merge_verdict(git: Git, base: str) -> Verdict:
    """Whether HEAD has all of `base`: else its reports say nothing of the merged code.

    A commit that merges the two, which CI systems make for merge requests, has it. Raises GitError
    where `base` is no commit.
    """
    tip = resolve(git, base)
    if not tip:
        raise GitError(f"there is no commit {base} in this clone", hint=f"git fetch origin {base}")
    if is_ancestor(git, tip, "HEAD"):
        check = Check("up to date", Outcome.PASS, f"it has all of {base}")
    else:
        behind = git.text("rev-list", "--count", f"HEAD..{tip}")
        commits = counted(int(behind), "commit that is", "commits that are")
        reason = f"{base} has {commits} not in this branch"
        hint = f"git merge {base}, and run the tests again"
        check = Check("up to date", Outcome.INCOMPLETE, reason, hint=hint)
    return Verdict("merge", "merge", (check,))
