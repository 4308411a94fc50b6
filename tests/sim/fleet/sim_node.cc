#include "tests/sim/fleet/sim_node.h"

#include "shared/crypto/certificate.h"
#include "shared/wire/channel.h"
#include "shared/wire/convert.h"
#include "shared/wire/grpc_status.h"

namespace sealift::sim {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);
constexpr std::array<std::uint32_t, 13> kQuoted{0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14};

tpm::PcrValues Registers(const test::MeasuredBoot& boot) {
  tpm::PcrValues values;
  for (const std::uint32_t pcr : kQuoted) {
    const auto at = boot.pcrs.find(pcr);
    values[pcr] = at == boot.pcrs.end() ? Sha256Digest{} : at->second;
  }
  return values;
}

const std::string& EventLogText() {
  static const std::string text = ToText(test::FixtureEventLog());
  return text;
}

void Fill(const tpm::QuoteEvidence& from, v1::Quote& to) {
  to.set_attest(ToText(from.attest));
  to.set_signature(ToText(from.signature));
  to.set_event_log(EventLogText());
  for (const auto& [pcr, value] : from.pcrs) (*to.mutable_pcrs())[pcr] = wire::ToWire(value);
}

Answer Failed(const grpc::Status& status) {
  const Status error = StatusFromGrpc(status);
  return {"failed", ReasonIdOf(error), Describe(error)};
}

}  // namespace

v1::BeginRequest SimNode::Offer(Lie telling, test::SoftwareMachine& shown) const {
  v1::BeginRequest offer;
  const auto& certificates =
      telling == Lie::kCertificateOfAnotherKey ? victim->tpm_.certificates() : shown.certificates();
  for (const Bytes& der : certificates) offer.add_ek_certificate_chain(ToText(der));
  offer.set_ek_public(ToText(shown.EkPublic()));
  offer.set_ak_public(ToText(shown.AkPublic()));
  offer.set_tls_public(ToText(tpm_.TlsPublic()));
  if (telling == Lie::kClonedDisk) {
    offer.set_ek_public(ToText(victim->tpm_.EkPublic()));
    offer.clear_ek_certificate_chain();
    for (const Bytes& der : victim->tpm_.certificates()) offer.add_ek_certificate_chain(ToText(der));
    offer.set_ak_public(ToText(victim->tpm_.AkPublic()));
  }
  if (telling == Lie::kAttestationKeyOfAnotherNode) offer.set_ak_public(ToText(victim->tpm_.AkPublic()));
  if (telling == Lie::kSoftwareAttestationKey) offer.set_ak_public(ToText(test::SoftwareAk().Public()));
  return offer;
}

void SimNode::Prove(const v1::BeginResponse& challenge, Lie telling, test::SoftwareMachine& shown,
                    const test::MeasuredBoot& boot, v1::CompleteRequest& proof) {
  const ByteView nonce = AsBytes(challenge.nonce());
  proof.set_session(challenge.session());
  // A machine whose TPM refuses guesses.
  const auto secret =
      shown.Activate(AsBytes(challenge.credential_blob()), AsBytes(challenge.encrypted_secret()));
  proof.set_activated_secret(ToText(secret.value_or(RandomBytes(32))));
  // The TLS key is this machine's own, whichever TPM vouches for it.
  const auto certified = shown.Certify(tpm_.TlsPublic(), nonce);
  proof.set_certify_attest(ToText(certified.attest));
  proof.set_certify_signature(ToText(certified.signature));
  proof.set_csr(ToText(CreateCertificateRequest("sealift node", {}, tpm_.tls_key(), "simulated").value()));
  const tpm::PcrValues registers = Registers(boot);
  if (telling == Lie::kOldQuote) {
    *proof.mutable_quote() = earlier_;
  } else if (telling == Lie::kQuoteOfAnotherNode) {
    Fill(victim->tpm_.Quote(registers, nonce), *proof.mutable_quote());
  } else if (telling == Lie::kQuoteBySoftwareKey) {
    test::SoftwareAk software;
    Fill(software.Quote(registers, nonce), *proof.mutable_quote());
  } else {
    if (telling == Lie::kQuoteBeforeReset) --shown.reset_count;
    Fill(shown.Quote(registers, nonce), *proof.mutable_quote());
  }
}

Answer SimNode::Enrol(const ControllerAt& controller, const std::string& ca_pem,
                      const test::MeasuredBoot& boot, bool renewing) {
  const Lie telling = LieAt(renewing ? Act::kRenew : Act::kEnrol);
  const auto channel = wire::OpenChannel({.address = controller.enrolment, .ca_pem = ca_pem, .identity = {}});
  const auto stub = v1::EnrolmentService::NewStub(*channel);
  std::optional<test::SoftwareMachine> copy;
  if (telling == Lie::kTwoClaimOneKey) copy.emplace(victim->tpm_.Copy());
  if (telling == Lie::kKeysChanged) copy.emplace(tpm_.Copy());
  test::SoftwareMachine& shown = copy ? *copy : tpm_;
  if (telling == Lie::kOldQuote) {
    // A quote of an earlier exchange, which it does not finish.
    v1::BeginResponse challenge;
    const grpc::Status begun =
        stub->Begin(wire::MakeContext(kPatience).get(), Offer(telling, shown), &challenge);
    if (!begun.ok()) return Failed(begun);
    Fill(tpm_.Quote(Registers(boot), AsBytes(challenge.nonce())), earlier_);
  }
  v1::BeginResponse challenge;
  const grpc::Status begun =
      stub->Begin(wire::MakeContext(kPatience).get(), Offer(telling, shown), &challenge);
  if (!begun.ok()) return Failed(begun);
  v1::CompleteRequest proof;
  Prove(challenge, telling, shown, boot, proof);
  if (telling == Lie::kNone) earlier_ = proof.quote();
  v1::CompleteResponse response;
  const grpc::Status completed = stub->Complete(wire::MakeContext(kPatience).get(), proof, &response);
  if (!completed.ok()) return Failed(completed);
  if (response.state() == v1::CompleteResponse::PENDING) return {"pending", response.reason()};
  if (response.state() != v1::CompleteResponse::ISSUED) return {"refused", response.reason()};
  if (!node_id_.empty() && node_id_ != response.node_id()) return {"failed", "another node id"};
  node_id_ = response.node_id();
  chain_.clear();
  for (const std::string& der : response.certificate_chain()) {
    chain_ += Certificate::FromDer(AsBytes(der)).value().Pem();
  }
  return {"issued", ""};
}

Answer SimNode::Attest(const ControllerAt& controller, const std::string& ca_pem,
                       const test::MeasuredBoot& boot) {
  wire::ChannelOptions options{.address = controller.fleet, .ca_pem = ca_pem, .identity = {}};
  options.identity.certificate_chain = chain_;
  options.identity.key = tpm_.tls_key()->PrivatePem();
  const auto channel = wire::OpenChannel(options);
  const auto stub = v1::NodeService::NewStub(*channel);
  v1::CheckInRequest check_in;
  check_in.set_state(v1::IDLE);
  check_in.mutable_running()->set_version("1.0.0");
  check_in.mutable_running()->set_boot_id("firmware " + firmware_version);
  check_in.set_healthy(true);
  v1::CheckInResponse asked;
  const grpc::Status heard = stub->CheckIn(wire::MakeContext(kPatience).get(), check_in, &asked);
  if (!heard.ok()) return Failed(heard);
  if (asked.quote_nonce().empty()) return {"failed", "no nonce"};
  v1::AttestRequest request;
  const Lie telling = LieAt(Act::kAttest);
  if (telling == Lie::kOldQuoteLater) {
    *request.mutable_quote() = earlier_;
  } else {
    if (telling == Lie::kQuoteBeforeResetLater) --tpm_.reset_count;
    Fill(tpm_.Quote(Registers(boot), AsBytes(asked.quote_nonce())), *request.mutable_quote());
  }
  if (event_log != nullptr) request.mutable_quote()->set_event_log(*event_log);
  request.mutable_hardware()->set_vendor("Simulated");
  request.mutable_hardware()->set_product(product);
  request.mutable_hardware()->set_firmware_version(firmware_version);
  v1::AttestResponse verdict;
  const grpc::Status judged = stub->Attest(wire::MakeContext(kPatience).get(), request, &verdict);
  if (!judged.ok()) return Failed(judged);
  const std::string reason = verdict.reasons().empty() ? "" : verdict.reasons(0);
  if (verdict.outcome() == v1::Verdict::TRUSTED) return {"trusted", reason};
  return {verdict.outcome() == v1::Verdict::UNTRUSTED ? "untrusted" : "unknown", reason};
}

}  // namespace sealift::sim
