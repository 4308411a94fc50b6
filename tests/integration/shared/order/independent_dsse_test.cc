// Our orders read by python-cryptography, its envelopes by us, and a person's signature by openssl(1).
#include <gtest/gtest.h>

#include "shared/order/dsse.h"
#include "tests/support/order_world.h"
#include "tests/support/places.h"
#include "tests/support/tools.h"

namespace sealift::order {
namespace {

constexpr char kScript[] = SEALIFT_SOURCE_DIR "/tests/integration/shared/order/independent_dsse.py";
constexpr char kPython[] = "/usr/bin/python3";

class IndependentDsse : public testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOL(kPython);
    if (test::RunTool({kPython, "-c", "import cryptography"}).exit_code == 0) return;
    if (test::ToolsAreRequired()) FAIL() << "python3-cryptography is missing";
    GTEST_SKIP() << "python3-cryptography is missing";
  }
  void Save(const std::string& name, ByteView bytes) {
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / name, bytes).ok());
  }
  CommandOutput Script(const std::string& verb) {
    return test::RunTool({kPython, kScript, verb, folder_.path().string()});
  }

  TempDir folder_ = TempDir::Create("dsse").value();
  test::OrderWorld world_;
};

TEST_F(IndependentDsse, ProvesOurOrder) {
  ChangeRequest request = world_.Request(Action::kRollback, {{"version", "1.1.0"}});
  request.reason = "Gerät \"7\" \\ Süd";
  const OrderParts parts = world_.Parts(request);
  Save("order.json", AsBytes(MakeOrder(parts, *world_.orders_).value()));
  Save("delegation.json", AsBytes(parts.delegation));
  Save("canonical.json", AsBytes(parts.canonical));
  Save("root.pem", AsBytes(world_.root_->public_key().Pem()));
  const CommandOutput good = Script("check");
  EXPECT_EQ(good.exit_code, 0) << good.err;
  EXPECT_EQ(good.out,
            "rollback ['sealift:operator:anna?role=operator'] ['sealift:operator:bert?role=approver']\n");

  OrderParts forged = parts;
  forged.approver = world_.SignAs("bert", parts.canonical + " ");
  Save("order.json", AsBytes(MakeOrder(forged, *world_.orders_).value()));
  EXPECT_NE(Script("check").exit_code, 0) << "the script proves nothing";
}

TEST_F(IndependentDsse, ItsEnvelopeIsProvenByUs) {
  const CommandOutput made = Script("make");
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto envelope = ParseEnvelope(ReadTextFile(folder_.path() / "envelope.json").value());
  ASSERT_TRUE(envelope.ok()) << Describe(envelope.status());
  const PublicKey key = PublicKey::FromPem(ReadTextFile(folder_.path() / "key.pem").value()).value();
  EXPECT_TRUE(VerifyEnvelope(*envelope, "text/plain", {&key, 1}).ok());
  EXPECT_EQ(ReasonOf(VerifyEnvelope(*envelope, "text/html", {&key, 1})), Reason::kOrderMalformed);
  DsseEnvelope changed = *envelope;
  changed.payload.push_back(' ');
  EXPECT_EQ(ReasonOf(VerifyEnvelope(changed, "text/plain", {&key, 1})), Reason::kOrderSignatureInvalid);
}

TEST_F(IndependentDsse, OpensslProvesAPersonsSignature) {
  SEALIFT_NEED_TOOL("openssl");
  const std::string canonical = CanonicalRequest(world_.Request(Action::kReset));
  Save("request", AsBytes(canonical));
  Save("signature", world_.SignAs("anna", canonical).signature);
  Save("anna.pem", AsBytes(world_.persons_.at("anna").key->public_key().Pem()));
  const auto verify = [&](const std::string& file) {
    return test::RunTool({"openssl", "dgst", "-sha256", "-verify", folder_.path() / "anna.pem", "-signature",
                          folder_.path() / "signature", folder_.path() / file})
        .exit_code;
  };
  EXPECT_EQ(verify("request"), 0);
  Save("other", AsBytes(canonical + " "));
  EXPECT_NE(verify("other"), 0);
}

}  // namespace
}  // namespace sealift::order
