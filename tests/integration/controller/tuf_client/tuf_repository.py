"""A TUF repository in memory on a loopback web server, signed by libraries that share no code with the project.

Canonical JSON and RSA and ECDSA signatures are securesystemslib's, ed25519 is python3-cryptography's.
"""
import copy
import datetime
import hashlib
import http.server
import json
import threading
import time
import urllib.parse

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from securesystemslib import formats, keys

TOP_LEVEL = ("root", "timestamp", "snapshot", "targets")


def days(count):
    moment = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=count)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Ed25519Signer:
    def __init__(self):
        self._key = ed25519.Ed25519PrivateKey.generate()
        raw = self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.public = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": raw.hex()}}
        self.keyid = sha256(formats.encode_canonical(self.public).encode())

    def sign(self, data):
        return self._key.sign(data).hex()


class LibrarySigner:
    def __init__(self, key):
        self._key = key
        self.public = keys.format_keyval_to_metadata(key["keytype"], key["scheme"], key["keyval"])
        self.keyid = key["keyid"]

    def sign(self, data):
        return keys.create_signature(self._key, data)["sig"]


def new_signer(scheme="ecdsa-sha2-nistp256"):
    if scheme == "ed25519":
        return Ed25519Signer()
    if scheme.startswith("rsa"):
        return LibrarySigner(keys.generate_rsa_key(2048, scheme))
    return LibrarySigner(keys.generate_ecdsa_key(scheme))


class Repository:
    """Change `signed`, then publish roles. What was published stays as bytes in `files`."""

    def __init__(self):
        self.signers = {role: [new_signer()] for role in TOP_LEVEL}
        self.signed = {}
        self.published = {}
        self.contents = {}
        self.list_digests = False
        self.requests = []
        self.target_requests = []
        self.behaviours = {}
        for role in TOP_LEVEL:
            self.signed[role] = {"_type": role, "spec_version": "1.0.31", "version": 0, "expires": days(30)}
        self.signed["root"].update(consistent_snapshot=True, keys={}, roles={})
        self.signed["targets"]["targets"] = {}
        self.signed["snapshot"]["meta"] = {}
        self.signed["timestamp"]["meta"] = {}
        for role in TOP_LEVEL:
            self.signed["root"]["roles"][role] = {"keyids": [], "threshold": 1}
            self.trust(role, self.signers[role][0])
        self.publish("root", "targets", "snapshot", "timestamp")

    def trust(self, role, signer):
        self.signed["root"]["keys"][signer.keyid] = signer.public
        keyids = self.signed["root"]["roles"][role]["keyids"]
        if signer.keyid not in keyids:
            keyids.append(signer.keyid)

    def add_signer(self, role, scheme="ecdsa-sha2-nistp256"):
        signer = new_signer(scheme)
        self.trust(role, signer)
        self.signers[role].append(signer)
        return signer

    def rotate(self, role):
        self.signed["root"]["roles"][role]["keyids"] = []
        self.signers[role] = []
        for _ in range(self.signed["root"]["roles"][role]["threshold"]):
            self.add_signer(role)

    def serialize(self, role):
        data = formats.encode_canonical(self.signed[role]).encode()
        # In the order of first mention, one signature a key.
        signers = {signer.keyid: signer for signer in self.signers[role]}
        signatures = [{"keyid": keyid, "sig": signer.sign(data)} for keyid, signer in signers.items()]
        return json.dumps({"signatures": signatures, "signed": self.signed[role]}, indent=1).encode()

    def publish(self, *roles, bump=True):
        for role in roles:
            if bump:
                self.signed[role]["version"] += 1
            data = self.serialize(role)
            self.published.setdefault(role, []).append(data)
            listed = {"version": self.signed[role]["version"]}
            if self.list_digests:
                listed.update(length=len(data), hashes={"sha256": sha256(data)})
            if role == "snapshot":
                self.signed["timestamp"]["meta"]["snapshot.json"] = listed
            elif role not in TOP_LEVEL or role == "targets":
                self.signed["snapshot"]["meta"][role + ".json"] = listed

    def publish_all(self):
        self.publish("targets", "snapshot", "timestamp")

    def add_target(self, role, path, content):
        self.contents[path] = content
        self.signed[role]["targets"][path] = {"length": len(content), "hashes": {"sha256": sha256(content)}}

    def delegate(self, by, name, paths=("*",), terminating=False, expires=None, **how):
        if name not in self.signed:
            self.signed[name] = {"_type": "targets", "spec_version": "1.0.31", "version": 0,
                                 "expires": expires or days(30), "targets": {}}
            self.signers[name] = [new_signer()]
        delegations = self.signed[by].setdefault("delegations", {"keys": {}, "roles": []})
        entry = {"name": name, "threshold": 1, "terminating": terminating, "keyids": []}
        entry.update(how or {"paths": list(paths)})
        for signer in self.signers[name]:
            delegations["keys"][signer.keyid] = signer.public
            entry["keyids"].append(signer.keyid)
        delegations["roles"].append(entry)
        return entry

    def succinct(self, by, bits, prefix):
        signer = new_signer()
        names = [f"{prefix}-{number:0{len(f'{2 ** bits - 1:x}')}x}" for number in range(2 ** bits)]
        for name in names:
            self.signed[name] = {"_type": "targets", "spec_version": "1.0.31", "version": 0,
                                 "expires": days(30), "targets": {}}
            self.signers[name] = [signer]
        self.signed[by]["delegations"] = {
            "keys": {signer.keyid: signer.public},
            "succinct_roles": {"keyids": [signer.keyid], "threshold": 1, "bit_length": bits, "name_prefix": prefix}}
        return names

    def change_last(self, role, change):
        """Bends what was published last, after it was signed."""
        document = json.loads(self.published[role].pop())
        change(document)
        self.published[role].append(json.dumps(document).encode())

    def metadata(self, name):
        version, _, rest = name[: -len(".json")].partition(".")
        consistent = json.loads(self.published["root"][-1])["signed"]["consistent_snapshot"]
        numbered = name.endswith(".root.json") or (consistent and name != "timestamp.json")
        role = urllib.parse.unquote(rest if numbered else name[: -len(".json")])
        self.requests.append((role, int(version) if numbered else None))
        versions = self.published.get(role, [])
        if not numbered:
            return versions[-1] if versions else None
        return versions[int(version) - 1] if 0 < int(version) <= len(versions) else None

    def target(self, path):
        self.target_requests.append(path)
        folder, slash, name = urllib.parse.unquote(path).rpartition("/")
        if json.loads(self.published["root"][-1])["signed"]["consistent_snapshot"]:
            digest, _, name = name.partition(".")
            # Published once with these bytes; an attacker may have changed them since.
            known = [sha256(c) for c in (self.contents.get(folder + slash + name),) if c is not None]
            listed = {t["hashes"].get("sha256") for r in self.signed.values() for t in r.get("targets", {}).values()}
            if digest not in known and digest not in listed:
                return None
        return self.contents.get(folder + slash + name)


class Server(http.server.ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repository = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    disable_nagle_algorithm = True

    def do_GET(self):  # noqa: N802
        repository = self.server.repository
        kind, _, name = self.path.lstrip("/").partition("/")
        behaviour = repository.behaviours.get(name)
        if behaviour:
            behaviour(self)
            return
        data = repository.metadata(name) if kind == "metadata" else repository.target(name)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(4096):
            handler.wfile.write(b" " * 65536)
    except OSError:
        pass


def stalling(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        for _ in range(120):
            handler.wfile.write(b" ")
            time.sleep(0.25)
    except OSError:
        pass


def answering(code, location=None):
    def behave(handler):
        handler.send_response(code)
        if location:
            handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave


def clone(value):
    return copy.deepcopy(value)
