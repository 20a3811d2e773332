#!/usr/bin/env python3
"""Checks that every crate in the dependency tree may be used under the licences that deny.toml allows.

    scripts/check_licences.py

Needs nothing but cargo and Python; `cargo deny check licenses` also looks into the licence texts. A licence that
deny.toml allows but no crate needs is a failure too. Exit code 0: all good, 1: not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def allowed_licences() -> set[str]:
    """The list `allow` of deny.toml (tomllib is in Python from 3.11 on only)."""
    text = (ROOT / "deny.toml").read_text(encoding="utf-8")
    found = re.search(r"^allow\s*=\s*\[([^\]]*)\]", text, re.MULTILINE)
    licences = set(re.findall(r'"([^"]+)"', found.group(1))) if found else set()
    if not licences:
        sys.exit("error: deny.toml has no list `allow` of licences")
    return licences


def exceptions() -> dict[str, set[str]]:
    """The list `exceptions` of deny.toml: crate → licences that it alone may have."""
    text = (ROOT / "deny.toml").read_text(encoding="utf-8")
    entries = re.findall(r'\{\s*crate\s*=\s*"([^"]+)",\s*allow\s*=\s*\[([^\]]*)\]\s*\}', text)
    return {crate: set(re.findall(r'"([^"]+)"', licences)) for crate, licences in entries}


def crates() -> dict[str, str]:
    """Crate and version → SPDX expression, for all targets, with build and development dependencies."""
    command = ["cargo", "tree", "--locked", "--target", "all", "--all-features", "--edges", "all", "--prefix", "none",
               "--format", "{p}\t{l}"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("error: cargo tree failed")
    rows = [line.removesuffix(" (*)").split("\t") for line in done.stdout.splitlines() if "\t" in line]
    return {" ".join(row[0].split()[:2]): row[1].strip() for row in rows}


def permits(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression can be met with the allowed licences. An empty one cannot."""
    words = re.findall(r"[()]|[^\s()]+(?:\s+WITH\s+[^\s()]+)?", expression.replace("/", " OR "))
    position = 0

    def peek() -> str | None:
        return words[position] if position < len(words) else None

    def take() -> str | None:
        nonlocal position
        word = peek()
        position += 1
        return word

    def either() -> bool:
        result = both()
        while peek() == "OR":
            take()
            result = both() or result
        return result

    def both() -> bool:
        result = one()
        while peek() == "AND":
            take()
            result = one() and result
        return result

    def one() -> bool:
        word = take()
        if word == "(":
            result = either()
            return take() == ")" and result
        return word in allowed

    return either() and position == len(words)


def main() -> int:
    allowed = allowed_licences()
    found, alone = crates(), exceptions()
    bad = {
        crate: licence
        for crate, licence in found.items()
        if not permits(licence, allowed | alone.get(crate.split()[0], set()))
    }
    for crate, licence in sorted(bad.items()):
        print(f"FAIL {crate}: {licence or 'no licence given'}, not among {', '.join(sorted(allowed))}")
    for licence in sorted(allowed):
        if all(permits(expression, allowed - {licence}) for expression in found.values()):
            bad[licence] = licence
            print(f"FAIL deny.toml allows {licence}, but no crate needs it: remove it there")
    for crate in alone.keys() - {crate.split()[0] for crate in found}:
        bad[crate] = crate
        print(f"FAIL deny.toml has an exception for {crate}, which is not in the tree: remove it there")
    print(f"{len(found)} crates, licences allowed: {', '.join(sorted(allowed))}: {'FAIL' if bad else 'ok'}")
    return 1 if bad or not found else 0


if __name__ == "__main__":
    sys.exit(main())
