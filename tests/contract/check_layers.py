#!/usr/bin/python3
"""Fails where an #include crosses a wall that cmake/layers.txt has no door in.

    check_layers.py SOURCE_DIR
"""
import pathlib
import re
import sys

ROOMS = ("proto", "shared", "hsm", "controller", "node-agent")
MAX_LINES = 1000


def read_layers(path):
    layers = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            folder, _, allowed = line.partition(":")
            layers[folder] = set(allowed.split())
    return layers


def main():
    root = pathlib.Path(sys.argv[1])
    layers = read_layers(root / "cmake/layers.txt")
    problems = []
    earlier = set()
    for folder, allowed in layers.items():
        for dep in allowed - earlier - {"*"}:
            problems.append(f"cmake/layers.txt: {folder} points up to {dep}")
        earlier.add(folder)
    checked = 0
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.[hc]*")):
            if path.suffix not in (".h", ".cc"):
                continue
            folder = str(path.parent.relative_to(root))
            text = path.read_text()
            checked += 1
            if folder not in layers:
                problems.append(f"{path.relative_to(root)}: {folder} has no line in cmake/layers.txt")
                continue
            if len(text.splitlines()) > MAX_LINES:
                problems.append(f"{path.relative_to(root)}: longer than {MAX_LINES} lines")
            for include in re.findall(r'^#include "([^"]+)"', text, re.M):
                target = str(pathlib.PurePath(include).parent)
                if target.startswith("sealift/"):
                    target = "proto"
                if target != folder and target not in layers[folder] and "*" not in layers[folder]:
                    problems.append(f"{path.relative_to(root)}: includes {include}, which {folder} may not use")
    for problem in problems:
        print(problem)
    print(f"{checked} files checked, {len(problems)} problems")
    return 1 if problems or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
