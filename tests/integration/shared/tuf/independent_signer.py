#!/usr/bin/python3
"""Makes and checks TUF repositories with securesystemslib, which shares no code with the project.

independent_signer.py make DIR    writes 1.root.json, 2.root.json (new timestamp key), timestamp, snapshot, targets
independent_signer.py verify DIR  exits 0 when every signature in DIR verifies under DIR/1.root.json
"""
import hashlib
import json
import pathlib
import sys

from securesystemslib import formats, keys

ROLES = ("root", "targets", "snapshot", "timestamp")
EXPIRES = "2039-01-01T00:00:00Z"


def public_part(key):
    return keys.format_keyval_to_metadata(key["keytype"], key["scheme"], key["keyval"])


def signed_file(signed, signing_keys):
    data = formats.encode_canonical(signed).encode()
    signatures = [keys.create_signature(key, data) for key in signing_keys]
    return json.dumps({"signed": signed, "signatures": signatures}, indent=1).encode()


def listed(version, content):
    return {"version": version, "length": len(content), "hashes": {"sha256": hashlib.sha256(content).hexdigest()}}


def root(version, role_keys):
    return {
        "_type": "root",
        "spec_version": "1.0.31",
        "version": version,
        "expires": EXPIRES,
        "consistent_snapshot": True,
        "keys": {key["keyid"]: public_part(key) for key in role_keys.values()},
        "roles": {role: {"keyids": [role_keys[role]["keyid"]], "threshold": 1} for role in ROLES},
    }


def common(role):
    return {"_type": role, "spec_version": "1.0.31", "version": 1, "expires": EXPIRES}


def make(folder):
    role_keys = {role: keys.generate_ecdsa_key() for role in ROLES}
    first = signed_file(root(1, role_keys), [role_keys["root"]])
    role_keys["timestamp"] = keys.generate_ecdsa_key()
    second = signed_file(root(2, role_keys), [role_keys["root"]])
    content = b"{}"
    targets = common("targets")
    targets["targets"] = {
        "stable/1.0/manifest.json": {
            "length": len(content),
            "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
            "custom": {"role": "manifest", "note": 'quote " backslash \\ line\nend \u00e9'},
        }
    }
    targets["delegations"] = {"keys": {}, "roles": []}
    targets_file = signed_file(targets, [role_keys["targets"]])
    snapshot = dict(common("snapshot"), meta={"targets.json": listed(1, targets_file)})
    snapshot_file = signed_file(snapshot, [role_keys["snapshot"]])
    timestamp = dict(common("timestamp"), meta={"snapshot.json": listed(1, snapshot_file)})
    files = {
        "1.root.json": first,
        "2.root.json": second,
        "1.targets.json": targets_file,
        "1.snapshot.json": snapshot_file,
        "timestamp.json": signed_file(timestamp, [role_keys["timestamp"]]),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)


def verify(folder):
    first = json.loads((folder / "1.root.json").read_text())["signed"]
    for path in sorted(folder.glob("*.json")):
        metadata = json.loads(path.read_text())
        role = metadata["signed"]["_type"]
        data = formats.encode_canonical(metadata["signed"]).encode()
        good = 0
        for signature in metadata["signatures"]:
            if signature["keyid"] not in first["roles"][role]["keyids"]:
                continue
            listed_key = first["keys"][signature["keyid"]]
            digest = hashlib.sha256(formats.encode_canonical(listed_key).encode()).hexdigest()
            if digest != signature["keyid"]:
                sys.exit(f"{path.name}: key id is not the digest of its key")
            key = dict(listed_key, keyid=signature["keyid"])
            good += keys.verify_signature(key, signature, data)
        if good < first["roles"][role]["threshold"]:
            sys.exit(f"{path.name}: {good} valid signatures")


if __name__ == "__main__":
    {"make": make, "verify": verify}[sys.argv[1]](pathlib.Path(sys.argv[2]))
