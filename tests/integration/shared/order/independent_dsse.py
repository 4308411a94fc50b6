"""Orders read and envelopes made with python-cryptography: another implementation of DSSE and of our JSON.

  independent_dsse.py check FOLDER   order.json, delegation.json, root.pem, canonical.json -> prints the action
  independent_dsse.py make FOLDER    writes envelope.json (type "text/plain") and key.pem
"""
import base64
import json
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ECDSA = ec.ECDSA(hashes.SHA256())


def pae(kind, payload):
    kind = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def opened(text, kind, keys):
    """The payload, where one of the signatures is by one of the keys."""
    envelope = json.loads(text)
    assert envelope["payloadType"] == kind, envelope["payloadType"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    for key in keys:
        for signature in envelope["signatures"]:
            try:
                key.verify(base64.b64decode(signature["sig"]), pae(kind, payload), ECDSA)
                return json.loads(payload)
            except Exception:  # pylint: disable=broad-except
                continue
    raise SystemExit("no signature verifies")


def person(entry, canonical, cas):
    certificate = x509.load_der_x509_certificate(base64.b64decode(entry["certificate"]))
    certificate.public_key().verify(base64.b64decode(entry["signature"]), canonical, ECDSA)
    assert any(certificate.issuer == ca.subject for ca in cas)
    for ca in cas:
        ca.public_key().verify(certificate.signature, certificate.tbs_certificate_bytes,
                               ec.ECDSA(certificate.signature_hash_algorithm))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def check(folder):
    root = serialization.load_pem_public_key((folder / "root.pem").read_bytes())
    text = (folder / "order.json").read_text()
    kind = "application/vnd.sealift.order+json"
    # Who may sign it says the delegation inside, which is proven before its keys are used.
    inside = json.loads(base64.b64decode(json.loads(text)["payload"]))["delegation"]
    assert inside == (folder / "delegation.json").read_text()
    delegation = opened(inside, "application/vnd.sealift.orders-delegation+json", [root])
    keys = [serialization.load_der_public_key(base64.b64decode(key)) for key in delegation["orders"]]
    cas = [x509.load_der_x509_certificate(base64.b64decode(ca)) for ca in delegation["operator_cas"]]
    order = opened(text, kind, keys)
    canonical = json.dumps(order["request"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert canonical == (folder / "canonical.json").read_bytes()
    print(order["request"]["action"], person(order["requester"], canonical, cas),
          person(order["approver"], canonical, cas))


def make(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    payload = "{\"über\": 1}".encode()
    kind = "text/plain"
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": kind,
                "signatures": [{"sig": base64.b64encode(key.sign(pae(kind, payload), ECDSA)).decode()}]}
    (folder / "envelope.json").write_text(json.dumps(envelope, indent=2))
    (folder / "key.pem").write_bytes(key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


{"check": check, "make": make}[sys.argv[1]](pathlib.Path(sys.argv[2]))
