#!/usr/bin/python3
"""Drives sealift-tuf as public conformance suites drive a client: by its command line, over HTTP.

conformance.py CLIENT [CASE...]   exit code 0: all passed; 1: some failed; 77: what it needs is missing

What it looks at: exit codes, the metadata the client trusts afterwards, the targets it has, what it asked for.
"""
import contextlib
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback

try:
    import tuf_repository as lab
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(1 if os.environ.get("SEALIFT_REQUIRE_TOOLS") else 77)

CASES = {}


def case(*variants):
    def add(function):
        for variant in variants or ((),):
            name = "-".join([function.__name__, *map(str, variant)])
            CASES[name] = lambda world, v=variant: function(world, *v)
        return function

    return add


class World:
    """One client with its folders, one repository."""

    def __init__(self, client, folder, server):
        self.client, self.server = client, server
        self.trusted, self.targets = os.path.join(folder, "metadata"), os.path.join(folder, "targets")
        os.mkdir(self.trusted)
        os.mkdir(self.targets)
        self.root = os.path.join(folder, "root.json")
        self.repo = server.repository = lab.Repository()

    def run(self, *arguments, later=0, quick=False):
        command = [self.client, *arguments]
        if quick:
            command += ["--stall-seconds", "1"]
        if later:
            command = ["faketime", "-f", f"+{later}d", *command]
        done = subprocess.run(command, capture_output=True, timeout=60)
        self.err = done.stderr.decode()
        return done.returncode

    def init(self, data=None):
        with open(self.root, "wb") as file:
            file.write(data or self.repo.published["root"][0])
        return self.run("--metadata-dir", self.trusted, "init", self.root)

    def refresh(self, **how):
        return self.run("--metadata-url", self.server.url + "/metadata/", "--metadata-dir", self.trusted, "refresh", **how)

    def download(self, name, **how):
        return self.run("--metadata-url", self.server.url + "/metadata/", "--metadata-dir", self.trusted,
                        "--target-name", name, "--target-dir", self.targets,
                        "--target-base-url", self.server.url + "/targets/", "download", **how)

    def version(self, role):
        try:
            with open(os.path.join(self.trusted, role + ".json"), "rb") as file:
                return json.load(file)["signed"]["version"]
        except FileNotFoundError:
            return None

    def versions(self):
        names = sorted(n[:-5] for n in os.listdir(self.trusted) if n.endswith(".json"))
        return [(name, self.version(name)) for name in names]

    def stored(self, role):
        with open(os.path.join(self.trusted, role + ".json"), "rb") as file:
            return file.read()

    def downloaded(self):
        files = [f for f in glob.glob(self.targets + "/**", recursive=True) if os.path.isfile(f)]
        contents = []
        for path in sorted(files, key=os.path.getmtime):
            with open(path, "rb") as file:
                contents.append(file.read())
        return contents


def expect(got, wanted, why=""):
    assert got == wanted, f"{why} got {got!r}, wanted {wanted!r}"


FIRST = [("root", 2), ("timestamp", None), ("snapshot", 1), ("targets", 1)]


@case()
def first_refresh_asks_in_order_and_keeps_bytes(w):
    w.repo.published["timestamp"][-1] += b" "
    expect(w.init(), 0)
    expect(w.repo.requests, [], "init asks nobody")
    expect(w.refresh(), 0)
    expect(w.repo.requests, FIRST)
    for role in lab.TOP_LEVEL:
        expect(w.stored(role), w.repo.published[role][-1], role)
    w.repo.requests.clear()
    expect(w.refresh(), 0)
    expect(w.repo.requests, FIRST[:2])


@case()
def download_refreshes_first(w):
    expect(w.init(), 0)
    expect(w.download("nonexistent artifact"), 1)
    expect(w.repo.requests, FIRST)
    expect(w.versions(), [("root", 1), ("snapshot", 1), ("targets", 1), ("timestamp", 1)])


@case(("version",), ("signature",))
def bad_first_root_makes_no_request(w, how):
    root = json.loads(w.repo.published["root"][0])
    if how == "version":
        del root["signed"]["version"]
    else:
        root["signatures"][0]["sig"] = root["signatures"][0]["sig"][:-8] + "01020304"
    w.init(json.dumps(root).encode())
    expect(w.refresh(), 1)
    expect(w.repo.requests, [])


@case(("root", [("root", 1)]), ("timestamp", [("root", 2)]), ("snapshot", [("root", 2), ("timestamp", 2)]),
      ("targets", [("root", 2), ("snapshot", 2), ("timestamp", 2)]))
def unsigned_role_ends_the_cycle(w, role, trusted):
    w.repo.signers[role] = []
    w.repo.publish("root", "targets", "snapshot", "timestamp")
    expect(w.init(), 0)
    expect(w.refresh(), 1)
    expect(w.versions(), trusted)


@case(("root", [("root", 1)]), ("snapshot", [("root", 2), ("timestamp", 2)]),
      ("targets", [("root", 2), ("snapshot", 2), ("timestamp", 2)]))
def version_that_differs_from_the_url_ends_the_cycle(w, role, trusted):
    w.repo.signed[role]["version"] += 1
    # The listing is of the version in the file; the URL is the one a client asks for.
    w.repo.publish("root", "targets")
    if role == "targets":
        w.repo.signed["snapshot"]["meta"]["targets.json"]["version"] = 2
    w.repo.publish("snapshot")
    if role == "snapshot":
        w.repo.signed["timestamp"]["meta"]["snapshot.json"]["version"] = 2
    w.repo.publish("timestamp")
    expect(w.init(), 0)
    expect(w.refresh(), 1)
    expect(w.versions(), trusted)


@case()
def timestamp_of_the_same_version_changes_nothing(w):
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    before = w.stored("timestamp")
    w.repo.signed["timestamp"]["meta"]["snapshot.json"]["version"] = 100
    w.repo.publish("timestamp", bump=False)
    expect(w.refresh(), 0)
    expect(w.repo.requests[-1], ("timestamp", None))
    expect(w.stored("timestamp"), before)


@case()
def listed_digests_are_checked(w):
    w.repo.list_digests = True
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    w.repo.publish("targets")
    w.repo.signed["snapshot"]["meta"]["targets.json"]["hashes"]["sha256"] = "46" * 32
    w.repo.publish("snapshot", "timestamp")
    expect(w.refresh(), 1)
    expect((w.version("snapshot"), w.version("targets")), (3, 2))


@case()
def members_nobody_knows_are_signed_too(w):
    expect(w.init(), 0)
    signer = lab.new_signer()
    signer.public["x-extra"] = {"a": 1, "b": 2}
    w.repo.signed["root"]["x-custom"] = "value"
    w.repo.signed["root"]["roles"]["root"]["x-another"] = ["value"]
    w.repo.trust("root", signer)
    w.repo.signers["root"].append(signer)
    w.repo.signed["root"]["roles"]["root"]["threshold"] = 2
    w.repo.publish("root")
    expect(w.refresh(), 0, w.err if hasattr(w, "err") else "")
    expect(w.version("root"), 2)


@case(("snapshot",), ("targets",))
def missing_file_ends_the_cycle(w, role):
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    if role == "snapshot":
        w.repo.signed["timestamp"]["meta"]["snapshot.json"]["version"] += 1
        w.repo.publish("timestamp")
    else:
        w.repo.signed["snapshot"]["meta"]["targets.json"]["version"] += 1
        w.repo.publish("snapshot", "timestamp")
    expect(w.refresh(), 1)
    expect(w.repo.requests[-1], (role, 2))
    expect(w.version("timestamp"), 2)
    expect(w.version("targets"), 1)


@case()
def missing_timestamp_ends_the_cycle(w):
    expect(w.init(), 0)
    del w.repo.published["timestamp"]
    expect(w.refresh(), 1)
    expect(w.repo.requests[-1], ("timestamp", None))


@case()
def snapshot_that_looks_like_a_timestamp_is_none(w):
    expect(w.init(), 0)
    signer = w.repo.signers["timestamp"][0]
    w.repo.trust("snapshot", signer)
    w.repo.signers["snapshot"].append(signer)
    w.repo.signed["snapshot"]["meta"] = {"snapshot.json": {"version": 1}}
    w.repo.publish("root", "snapshot")
    w.repo.published["timestamp"].append(w.repo.published["snapshot"].pop())
    expect(w.refresh(), 1)
    expect(w.versions(), [("root", 2)])


# Expiry

@case(("root", (2, 1, 1)), ("timestamp", (1, 1, 1)), ("snapshot", (1, 2, 1)), ("targets", (1, 2, 2)))
def expired_role_is_not_taken(w, role, versions):
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    w.repo.signed[role]["expires"] = lab.days(-1)
    if role == "root":
        w.repo.publish("root")
    w.repo.publish_all()
    expect(w.refresh(), 1)
    expect((w.version("root"), w.version("timestamp"), w.version("snapshot")), versions)
    expect(w.version("targets"), 1)


@case()
def stored_metadata_that_expired_leads_to_the_next(w):
    w.repo.signed["timestamp"]["expires"] = lab.days(7)
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    expect(w.refresh(later=18), 1, "frozen")
    w.repo.signed["timestamp"]["expires"] = lab.days(21)
    w.repo.publish_all()
    expect(w.refresh(later=18), 0)
    expect((w.version("timestamp"), w.version("snapshot"), w.version("targets")), (3, 3, 3))


@case()
def expired_roots_on_the_way_do_not_matter(w):
    expect(w.init(), 0)
    w.repo.signed["root"]["expires"] = lab.days(-1)
    w.repo.publish("root")
    w.repo.signed["root"]["expires"] = lab.days(30)
    w.repo.publish("root")
    expect(w.refresh(), 0)
    expect(w.version("root"), 3)


# Rollback and fast-forward

@case()
def timestamp_going_back_is_refused(w):
    w.repo.publish("timestamp")
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    w.repo.signed["timestamp"]["version"] = 1
    w.repo.publish("timestamp", bump=False)
    expect(w.refresh(), 1)
    expect(w.version("timestamp"), 2)
    expect(w.repo.requests[-1], ("timestamp", None))


@case((False,), (True,))
def snapshot_going_back_is_refused(w, digests):
    w.repo.list_digests = digests
    w.repo.publish("snapshot", "timestamp")
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    w.repo.signed["timestamp"]["meta"]["snapshot.json"]["version"] = 1
    w.repo.publish("timestamp")
    expect(w.refresh(), 1)
    expect((w.version("timestamp"), w.version("snapshot")), (2, 2))
    expect(w.repo.requests[-1], ("timestamp", None))


@case((False,), (True,))
def targets_going_back_are_refused(w, digests):
    w.repo.list_digests = digests
    w.repo.publish_all()
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    w.repo.signed["targets"]["version"] = 1
    w.repo.publish("targets", bump=False)
    w.repo.publish("snapshot", "timestamp")
    expect(w.refresh(), 1)
    expect((w.version("snapshot"), w.version("targets")), (3, 3))


@case()
def file_vanishing_from_the_snapshot_is_refused(w):
    w.repo.delegate("targets", "A")
    w.repo.publish("A")
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    del w.repo.signed["snapshot"]["meta"]["A.json"]
    w.repo.publish("snapshot", "timestamp")
    expect(w.refresh(), 1)
    expect(w.version("snapshot"), 2)


@case(("timestamp",), ("snapshot",), ("targets",))
def new_keys_recover_from_fast_forward(w, role):
    expect(w.init(), 0)
    for _ in range(9):
        w.repo.publish(role)
    if role != "timestamp":
        w.repo.publish("snapshot", "timestamp") if role == "targets" else w.repo.publish("timestamp")
    expect(w.refresh(), 0)
    expect(w.version(role), 10)
    w.repo.rotate("snapshot" if role == "targets" else role)
    if role == "snapshot":
        w.repo.rotate("timestamp")
    w.repo.publish("root")
    w.repo.signed[role]["version"] = 1
    w.repo.published[role] = []
    w.repo.publish(role, bump=False)
    for other in ("snapshot", "timestamp"):
        if other != role and not (role == "timestamp" and other == "snapshot"):
            w.repo.publish(other)
    expect(w.refresh(), 0, w.err)
    expect(w.version(role), 1)


# Keys and thresholds

@case()
def threshold_not_met_is_refused(w):
    w.repo.signed["root"]["roles"]["snapshot"]["threshold"] = 3
    w.repo.add_signer("snapshot")
    w.repo.add_signer("snapshot")
    w.repo.publish("root", "targets", "snapshot", "timestamp")
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    w.repo.signers["snapshot"].pop()
    w.repo.publish_all()
    expect(w.refresh(), 1)
    expect(w.version("snapshot"), 2)


@case()
def role_with_too_few_keys_never_verifies(w):
    expect(w.init(), 0)
    for _ in range(2):
        w.repo.add_signer("snapshot")
    w.repo.signed["root"]["roles"]["snapshot"]["threshold"] = 4
    w.repo.publish("root", "snapshot", "timestamp")
    expect(w.refresh(), 1)
    expect((w.version("root"), w.version("snapshot")), (2, None))


@case()
def one_key_counts_once(w):
    expect(w.init(), 0)
    signer = w.repo.add_signer("snapshot")
    w.repo.signed["root"]["roles"]["snapshot"]["threshold"] = 3
    # The same key under a second name.
    twin = "twin"
    w.repo.signed["root"]["keys"][twin] = signer.public
    w.repo.signed["root"]["roles"]["snapshot"]["keyids"].append(twin)
    w.repo.publish("root", "snapshot", "timestamp")

    def twice(document):
        for signature in document["signatures"]:
            if signature["keyid"] == signer.keyid:
                document["signatures"].append({"keyid": twin, "sig": signature["sig"]})
                return

    w.repo.change_last("snapshot", twice)
    expect(w.refresh(), 1)
    expect(w.version("snapshot"), None)


@case()
def signing_twice_with_one_key_id_is_refused(w):
    expect(w.init(), 0)
    w.repo.change_last("snapshot", lambda d: d["signatures"].append(d["signatures"][0]))
    expect(w.refresh(), 1)
    expect(w.version("snapshot"), None)


@case(("ed25519",), ("ecdsa-sha2-nistp256",), ("rsassa-pss-sha256",), ("rsa-pkcs1v15-sha256",))
def key_types_are_known(w, scheme):
    expect(w.init(), 0)
    signer = w.repo.add_signer("root", scheme)
    w.repo.signed["root"]["roles"]["root"]["threshold"] = 2
    w.repo.publish("root")
    expect(w.refresh(), 0, w.err if hasattr(w, "err") else "")
    expect(w.version("root"), 2)
    w.repo.publish("root")
    other = lab.new_signer(scheme).sign(b"something else")

    def bend(document):
        for signature in document["signatures"]:
            if signature["keyid"] == signer.keyid:
                signature["sig"] = other

    w.repo.change_last("root", bend)
    expect(w.refresh(), 1)
    expect(w.version("root"), 2)


@case()
def older_name_of_the_ecdsa_key_type(w):
    expect(w.init(), 0)
    signer = lab.new_signer()
    signer.public["keytype"] = "ecdsa-sha2-nistp256"
    w.repo.trust("root", signer)
    w.repo.signers["root"].append(signer)
    w.repo.signed["root"]["roles"]["root"]["threshold"] = 2
    w.repo.publish("root")
    expect(w.refresh(), 0)
    expect(w.version("root"), 2)


@case(("",), ("00",), ("not hex",))
def wrong_signature_beside_a_right_one_does_no_harm(w, rubbish):
    expect(w.init(), 0)
    signer = w.repo.add_signer("timestamp")
    w.repo.publish("root", "timestamp")

    def bend(document):
        for signature in document["signatures"]:
            if signature["keyid"] == signer.keyid:
                signature["sig"] = rubbish

    w.repo.change_last("timestamp", bend)
    expect(w.refresh(), 0)
    expect(w.version("timestamp"), 2)


ROTATIONS = {
    "one_key": ([1], 1, [1], [2], 1, [2, 1], True),
    "foreign_signatures": ([1], 1, [3, 1, 4], [2], 1, [3, 2, 1, 4], True),
    "one_of_five": ([0, 1, 2, 3, 4], 3, [0, 2, 4], [0, 1, 3, 4, 5], 3, [0, 4, 1], True),
    "all_of_five": ([0, 1, 2, 3, 4], 3, [0, 2, 4], [5, 6, 7, 8, 9], 3, [0, 2, 4, 5, 6, 7], True),
    "threshold_up": ([1, 2, 3], 1, [1], [1, 2, 3], 2, [1, 2], True),
    "threshold_down": ([1, 2, 3], 2, [1, 2], [1, 2, 3], 1, [1, 2], True),
    "without_the_old_key": ([1], 1, [1], [2], 1, [2, 3, 4], False),
    "without_the_new_key": ([1], 1, [1], [2], 1, [1, 3, 4], False),
    "too_few_new": ([0, 1, 2, 3, 4], 3, [0, 2, 4], [0, 1, 3, 4, 5], 3, [0, 2, 4], False),
    "too_few_old": ([0, 1, 2, 3, 4], 3, [0, 2, 4], [0, 1, 3, 4, 5], 3, [0, 4, 5], False),
    "new_threshold_not_reached": ([1, 2, 3], 1, [1], [1, 2, 3], 2, [2], False),
    "old_threshold_not_reached": ([1, 2, 3], 2, [1, 2], [1, 2, 3], 1, [1], False),
}
POOL = []


def pool():
    while len(POOL) < 10:
        POOL.append(lab.new_signer("ed25519"))
    return POOL


@case(*[(name,) for name in ROTATIONS])
def root_rotation(w, name):
    before, threshold, signed_by, after, next_threshold, next_signed_by, accepted = ROTATIONS[name]
    signers = pool()
    w.repo.published["root"] = []
    w.repo.signed["root"]["version"] = 0
    for listed, needed, signing in ((before, threshold, signed_by), (after, next_threshold, next_signed_by)):
        w.repo.signed["root"]["roles"]["root"] = {"keyids": [], "threshold": needed}
        for number in listed:
            w.repo.trust("root", signers[number])
        w.repo.signers["root"] = [signers[number] for number in signing]
        w.repo.publish("root")
    expect(w.init(), 0)
    expect(w.refresh(), 0 if accepted else 1)
    expect(w.stored("root"), w.repo.published["root"][1 if accepted else 0])


@case(("timestamp",), ("snapshot",), ("targets",))
def keys_of_other_roles_rotate(w, role):
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    w.repo.signed["root"]["roles"][role]["threshold"] = 2
    w.repo.rotate(role)
    w.repo.publish("root")
    w.repo.publish_all()
    expect(w.refresh(), 0, w.err)
    expect(w.stored(role), w.repo.published[role][-1])
    w.repo.signers[role].pop()
    w.repo.publish_all()
    expect(w.refresh(), 1)


# Delegations

GRAPHS = {
    "two": ([("targets", "A"), ("targets", "B")], ["A", "B"]),
    "depth_first": ([("targets", "A"), ("targets", "B"), ("A", "C"), ("A", "D")], ["A", "C", "D", "B"]),
    "terminating": ([("targets", "A"), ("targets", "B"), ("A", "C", True), ("A", "D"), ("C", "E")], ["A", "C", "E"]),
    "patterns": ([("targets", "A", False, ["*.py"]), ("targets", "B"), ("A", "C")], ["B"]),
    "cycle": ([("targets", "A"), ("targets", "B"), ("B", "C"), ("C", "D"), ("D", "B")], ["A", "B", "C", "D"]),
    "diamond": ([("targets", "A"), ("targets", "B"), ("B", "C"), ("A", "C")], ["A", "C", "B"]),
}


@case(*[(name,) for name in GRAPHS])
def delegations_are_searched(w, name):
    edges, visited = GRAPHS[name]
    for edge in edges:
        by, role, terminating, paths = (*edge, *((False, ["*"])[len(edge) - 2:]))[:4]
        w.repo.delegate(by, role, paths, terminating)
    w.repo.publish(*[role for role in w.repo.signed if role not in lab.TOP_LEVEL])
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.download("missingpath"), 1)
    expect(w.repo.requests[4:], [(role, 1) for role in visited])


TREE = {"targetfile": ("targets", []), "README.md": ("A", ["A"]), "releases/x/x_v1": ("C", ["B", "C"]),
        "releases/y/y_v1.zip": ("D", ["B", "D"]), "releases/z/z_v1.zip": ("D", ["B"])}


@case(*[(path,) for path in TREE])
def chain_must_be_trusted_with_the_path(w, path):
    w.repo.delegate("targets", "A", ["*.doc", "*.md"])
    w.repo.delegate("targets", "B", ["releases/*/*"])
    w.repo.delegate("B", "C", ["releases/x/*"])
    w.repo.delegate("B", "D", ["releases/y/*.zip"])
    for name, (role, _) in TREE.items():
        w.repo.add_target(role, name, f"{name} by {role}".encode())
    w.repo.publish("A", "B", "C", "D")
    w.repo.publish_all()
    expect(w.init(), 0)
    known = not path.startswith("releases/z")
    expect(w.download(path), 0 if known else 1, w.err)
    expect(w.downloaded(), [w.repo.contents[path]] if known else [])
    expect(w.repo.requests[4:], [(role, 1) for role in TREE[path][1]])


@case()
def hash_bins(w):
    names = w.repo.succinct("targets", 3, "bin")
    number = int(lab.sha256(b"path/x")[:1], 16) >> 1
    w.repo.add_target(names[number], "path/x", b"content")
    w.repo.publish(*names)
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.download("path/x"), 0, w.err)
    expect(w.repo.requests[4:], [(names[number], 1)])
    expect(w.downloaded(), [b"content"])


@case()
def path_hash_prefixes(w):
    w.repo.delegate("targets", "A", path_hash_prefixes=["x"])
    w.repo.delegate("targets", "B", path_hash_prefixes=["00", lab.sha256(b"x")[:3]])
    w.repo.add_target("B", "x", b"content")
    w.repo.publish("A", "B")
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.download("x"), 0, w.err)
    expect(w.repo.requests[4:], [("B", 1)])


@case(("?",), ("#",), ("/delegatedrole",), ("../delegatedrole",), ("..",), ("a b%c",))
def odd_role_names(w, name):
    w.repo.delegate("targets", name)
    w.repo.publish(name)
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.download("nonexistent"), 1)
    assert (name, 1) in w.repo.requests, w.repo.requests
    expect(len(w.versions()), 5)
    expect(sorted(os.listdir(os.path.dirname(w.trusted))), ["metadata", "root.json", "targets"])


@case()
def expired_delegated_role_is_not_taken(w):
    w.repo.delegate("targets", "A", expires=lab.days(-1))
    w.repo.add_target("A", "x", b"content")
    w.repo.publish("A")
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    expect(w.download("x"), 1)
    expect(w.downloaded(), [])
    expect(w.versions(), [("root", 1), ("snapshot", 2), ("targets", 2), ("timestamp", 2)])


@case()
def stored_delegated_role_expires(w):
    w.repo.delegate("targets", "A", expires=lab.days(7))
    w.repo.add_target("A", "first", b"first")
    w.repo.add_target("A", "second", b"second")
    w.repo.publish("A")
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.download("first"), 0)
    expect(w.download("second", later=18), 1)
    w.repo.signed["A"]["expires"] = lab.days(21)
    w.repo.publish("A", "snapshot", "timestamp")
    expect(w.download("second", later=18), 0, w.err)
    expect(w.downloaded(), [b"first", b"second"])


# Consistent snapshots, targets, bad servers

@case()
def without_consistent_snapshots(w):
    w.repo.signed["root"]["consistent_snapshot"] = False
    w.repo.delegate("targets", "..", ["*/*"])
    w.repo.add_target("..", "dir/x", b"content")
    w.repo.publish("root", "..")
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.download("dir/x"), 0, w.err)
    expect(w.repo.requests, [("root", 2), ("root", 3), ("timestamp", None), ("snapshot", None), ("targets", None),
                             ("..", None)])
    expect(w.repo.target_requests, ["dir/x"])


@case(("target_file.txt",), ("path/to/a/target_file.txt",), ("name with spaces?.txt",))
def target_is_fetched_once(w, path):
    w.repo.add_target("targets", path, b"contents")
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.download(path), 0, w.err)
    expect(w.download(path), 0)
    expect(len(w.repo.target_requests), 1)
    expect(w.downloaded(), [b"contents"])
    w.repo.add_target("targets", path, b"new contents")
    w.repo.publish_all()
    expect(w.download(path), 0)
    expect(w.downloaded(), [b"new contents"], "under the same name")


@case((b"other text",), (b"contents and more",), (b"short",))
def substituted_target_is_refused(w, content):
    w.repo.add_target("targets", "x", b"contents")
    w.repo.add_target("targets", "y", b"contents y")
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.download("x"), 0)
    w.repo.contents["y"] = content
    expect(w.download("y"), 1)
    expect(w.downloaded(), [b"contents"])


@case()
def target_without_a_known_digest_is_refused(w):
    w.repo.add_target("targets", "x", b"contents")
    w.repo.add_target("targets", "y", b"good")
    w.repo.signed["targets"]["targets"]["x"]["hashes"] = {"rot13": "abc"}
    w.repo.publish_all()
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    expect(w.download("x"), 1)
    expect(w.download("y"), 0)


@case(("2.root.json",), ("timestamp.json",), ("1.snapshot.json",), ("1.targets.json",))
def endless_metadata_is_cut_off(w, name):
    expect(w.init(), 0)
    w.repo.behaviours[name] = lab.endless
    expect(w.refresh(), 1)
    assert "TUF_TOO_LARGE" in w.err, w.err


@case(("timestamp.json",), ("1.targets.json",))
def slow_metadata_is_given_up(w, name):
    expect(w.init(), 0)
    w.repo.behaviours[name] = lab.stalling
    expect(w.refresh(quick=True), 1)
    assert "TRANSFER_TOO_SLOW" in w.err, w.err


@case((500,), (503,))
def failing_server_is_no_end_of_the_root_chain(w, code):
    expect(w.init(), 0)
    w.repo.behaviours["2.root.json"] = lab.answering(code)
    expect(w.refresh(), 1)
    expect(w.versions(), [("root", 1)])


@case()
def forbidden_is_not_there(w):
    expect(w.init(), 0)
    w.repo.behaviours["2.root.json"] = lab.answering(403)
    expect(w.refresh(), 0)


@case()
def redirects_in_a_circle_end(w):
    expect(w.init(), 0)
    w.repo.behaviours["timestamp.json"] = lab.answering(302, "/metadata/timestamp.json")
    expect(w.refresh(), 1)
    w.repo.behaviours["timestamp.json"] = lab.answering(302, "file:///etc/passwd")
    expect(w.refresh(), 1)


@case()
def damaged_state_costs_a_download(w):
    expect(w.init(), 0)
    expect(w.refresh(), 0)
    for role in ("timestamp", "snapshot", "targets"):
        with open(os.path.join(w.trusted, role + ".json"), "r+b") as file:
            file.truncate(100)
    expect(w.refresh(), 0)
    expect(len(w.versions()), 4)


@case()
def wrong_use_is_exit_code_one(w):
    expect(w.run(), 1)
    expect(w.run("refresh"), 1)
    expect(w.run("--metadata-dir", w.trusted, "refresh"), 1)
    expect(w.run("--help"), 0)
    expect(w.refresh(), 1, "before init")


def main():
    client, chosen = os.path.abspath(sys.argv[1]), sys.argv[2:]
    if not shutil.which("faketime"):
        print("skipped: faketime is missing")
        sys.exit(1 if os.environ.get("SEALIFT_REQUIRE_TOOLS") else 77)
    server = lab.Server()
    failed = []
    for name, run in CASES.items():
        if chosen and not any(name.startswith(c) for c in chosen):
            continue
        with tempfile.TemporaryDirectory(prefix="sealift-tuf-") as folder:
            world = World(client, folder, server)
            try:
                run(world)
            except Exception:
                failed.append(name)
                print(f"FAILED {name}\n{traceback.format_exc(limit=-2)}{getattr(world, 'err', '')}")
    with contextlib.suppress(Exception):
        server.shutdown()
    print(f"{len(CASES) - len(failed)} of {len(CASES)} cases passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
