"""Named checks with an outcome each, printed as they happen and written to a JSON file for deploy/check.sh."""
import argparse
import json
import pathlib
import shutil
import sys
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/lab"))
from processes import LabError, end_on_signals, say  # noqa: E402


class Checks:
    """Collects outcomes. A failed check does not stop the ones after it."""

    def __init__(self):
        self.results = []

    def check(self, name, test):
        """Runs `test`; it fails by raising AssertionError or LabError. Anything else is a defect and ends the run."""
        try:
            test()
        except (AssertionError, LabError) as error:
            self.failed(name, str(error) or traceback.extract_tb(error.__traceback__)[-1].line)
        else:
            self.results.append({"name": name, "outcome": "passed"})
            say(f"     ok      {name}")

    def failed(self, name, why):
        self.results.append({"name": name, "outcome": "failed", "why": why})
        say(f"     FAILED  {name}: {why}")

    def count(self, outcome):
        return sum(1 for result in self.results if result["outcome"] == outcome)

    def write(self, path):
        pathlib.Path(path).write_text(json.dumps({"checks": self.results}, indent=1) + "\n", encoding="utf-8")


def equal(found, expected):
    """Fails unless both are the same; says both."""
    assert found == expected, f"found {found!r}, expected {expected!r}"


def conclude(tell, results):
    """Runs tell(checks), writes the outcomes to the file `results` unless it is None; returns the exit code."""
    checks = Checks()
    try:
        tell(checks)
    except LabError as error:
        checks.failed("the story", str(error))
    finally:
        if results:
            checks.write(results)
    print(f"{checks.count('passed')} passed, {checks.count('failed')} failed")
    return 1 if checks.count("failed") or not checks.count("passed") else 0


def main(description, work, make_story, tell):
    """The command line of a checked story: make_story(work, build), then tell(story, checks). Returns the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--build", default=ROOT / "build/release")
    parser.add_argument("--work", default=ROOT / work)
    parser.add_argument("--results", default=None)
    options = parser.parse_args()
    end_on_signals()
    story = make_story(options.work, options.build)
    try:
        return conclude(lambda checks: tell(story, checks), options.results)
    finally:
        story.close()


def snapshot_main(description, work, cases):
    """The command line of cases that start from what install.py kept: cases(origin, work, only) gives (name, test)
    pairs. Returns the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--from", dest="origin", default=ROOT / "build/e2e-install", help="the work folder of install.py")
    parser.add_argument("--work", default=ROOT / work)
    parser.add_argument("--results", default=None)
    parser.add_argument("--only", nargs="*", default=(), help="cases by the names of their functions")
    options = parser.parse_args()
    end_on_signals()
    origin, place = pathlib.Path(options.origin).absolute(), pathlib.Path(options.work).absolute()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)

    def tell(checks):
        for name, test in cases(origin, place, options.only):
            checks.check(name, test)

    return conclude(tell, options.results)
