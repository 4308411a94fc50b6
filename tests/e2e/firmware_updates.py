"""Updates of KEK, db and dbx, made and signed by `sealift`, given to firmware in user mode through efivarfs.

In setup mode firmware takes what comes, so only user mode shows whether a signature, its signer and its time stamp are
right. The machine's variables are put back afterwards: copies of it go on with what was enrolled at the first boot.
"""
import base64
import pathlib
import shutil

from checks import equal
from processes import run

OWNER = "6d1b7ac5-5d5e-4ac7-9a57-2f5d1fd3fd3b"
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
SECURITY = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
VENDORS = {"KEK": GLOBAL, "db": SECURITY, "dbx": SECURITY}
REPLACE, APPEND = 0x27, 0x67


class FirmwareUpdates:
    """One machine that runs, in user mode."""

    def __init__(self, story, checks):
        self.story, self.check = story, checks.check
        self.folder = pathlib.Path(story.work) / "firmware-updates"
        self.folder.mkdir()
        self.saved = self.folder / "vars.fd"

    def run(self):
        shutil.copy(self.story.node.variables, self.saved)  # nothing writes to it while the guest idles
        self.check("firmware refuses an update of db with one byte flipped", self.flipped)
        self.check("firmware takes a certificate appended to db", lambda: self.append("db", self.certificate("more-db")))
        self.check("firmware takes a hash appended to dbx", lambda: self.append("dbx", self.hash()))
        self.check("firmware takes a KEK that replaces the old one", self.replace_kek)
        self.check("firmware refuses an older update given once more", self.replayed)

    def put_back(self):
        """Once the machine is off."""
        shutil.copy(self.saved, self.story.node.variables)

    # What is given.

    def certificate(self, name):
        key, pem, der, esl = (self.folder / f"{name}.{kind}" for kind in ("key", "pem", "der", "esl"))
        run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-x509", "-sha256", "-days", "30", "-subj", f"/CN={name}",
            "-keyout", key, "-out", pem)
        run("openssl", "x509", "-in", pem, "-outform", "DER", "-out", der)
        self.story.sealift("inspect", "esl-create", "--x509", f"{OWNER}={der}", "--out", esl)
        return esl

    def hash(self):
        esl = self.folder / "revoked.esl"
        self.story.sealift("inspect", "esl-create", "--sha256", f"{OWNER}={'ab' * 32}", "--out", esl)
        return esl

    def signed(self, variable, esl, *options):
        auth = self.folder / f"{variable}-{esl.stem}.auth"
        self.story.sealift("keys", "sign-variable", variable, "--esl", esl, "--out", auth, "--keys", self.story.keys,
                           *self.story.token_arguments("root"), *options)
        return auth.read_bytes()

    # What comes of it.

    def write(self, variable, attributes, auth):
        """What the kernel said of writing the variable; empty for success."""
        script = f"""
f=/sys/firmware/efi/efivars/{variable}-{VENDORS[variable]}
[ ! -e $f ] || chattr -i $f
base64 -d >/tmp/update <<'END'
{base64.encodebytes(attributes.to_bytes(4, "little") + auth).decode()}END
cat /tmp/update >$f
"""
        return self.story.machine.run(script, check=False)

    def value(self, variable):
        name = f"/sys/firmware/efi/efivars/{variable}-{VENDORS[variable]}"
        return bytes.fromhex(self.story.machine.run(f"[ ! -e {name} ] || od -An -v -tx1 {name}").replace("\n", ""))[4:]

    def refused(self, variable, attributes, auth):
        before = self.value(variable)
        said = self.write(variable, attributes, auth)
        assert said != "", "the kernel reported success"
        equal(self.value(variable), before)

    def flipped(self):
        auth = bytearray(self.signed("db", self.certificate("flipped"), "--append"))
        auth[-1] ^= 1
        self.refused("db", APPEND, bytes(auth))

    def append(self, variable, esl):
        before = self.value(variable)
        equal(self.write(variable, APPEND, self.signed(variable, esl, "--append")), "")
        equal(self.value(variable), before + esl.read_bytes())

    def replace_kek(self):
        self.old_kek = self.signed("KEK", self.certificate("old-kek"))
        both = self.folder / "both.esl"
        both.write_bytes((self.story.keys / "KEK.esl").read_bytes() + self.certificate("more-kek").read_bytes())
        equal(self.write("KEK", REPLACE, self.signed("KEK", both)), "")
        equal(self.value("KEK"), both.read_bytes())

    def replayed(self):
        self.refused("KEK", REPLACE, self.old_kek)
