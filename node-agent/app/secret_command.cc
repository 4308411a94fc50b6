#include "node-agent/app/secret_command.h"

#include <fmt/format.h>
#include <linux/keyctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "node-agent/link/enrolment.h"
#include "node-agent/secret/kept_secret.h"
#include "node-agent/tpm/esys_tpm.h"
#include "node-agent/tpm/tls_guard.h"
#include "node-agent/tpm/tls_signer.h"
#include "node-agent/update/state_place.h"
#include "node-agent/volume/unlock.h"
#include "sealift/v1/secret.grpc.pb.h"
#include "shared/base/files.h"
#include "shared/base/process.h"
#include "shared/crypto/key_reference.h"
#include "shared/tpm/secret_context.h"
#include "shared/wire/channel.h"
#include "shared/wire/convert.h"
#include "shared/wire/grpc_status.h"
#include "shared/wire/tls.h"

namespace sealift::agent {
namespace {

constexpr auto kCallDeadline = std::chrono::seconds(60);

struct Machine {
  std::shared_ptr<TpmDevice> device;
  std::shared_ptr<Tpm> tpm;
  std::shared_ptr<grpc::Channel> channel;
};

// The running agent's TLS key and certificate.
Result<Machine> Connect(const Settings& settings) {
  MountedStatePlace place(settings.state_mount, settings.state);
  SEALIFT_RETURN_IF_ERROR(place.CheckMounted());
  Machine machine;
  SEALIFT_ASSIGN_OR_RETURN(machine.device, OpenTpmDevice({.tcti = settings.tcti}));
  SecretBytes guard;
  if (std::filesystem::exists(settings.state / kTlsGuardFileName)) {
    SEALIFT_ASSIGN_OR_RETURN(guard, LoadOrMakeTlsGuard(settings.state / kTlsGuardFileName));
  }
  machine.tpm = MakeEsysTpm(machine.device, std::move(guard));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, MakeTlsSigner(machine.tpm));
  const auto identity =
      IdentityFile(settings.state / kIdentityFileName).Load(signer->public_key(), SystemClock().Now());
  if (!identity) {
    return MakeError(Code::kUnavailable, Reason::kNotEnrolled,
                     "fetch secret: this machine has no certificate of its controller in force");
  }
  RegisterTpmKeyResolver(machine.tpm);
  SEALIFT_ASSIGN_OR_RETURN(
      machine.channel,
      wire::OpenChannel({.address = settings.controller.node,
                         .ca_pem = settings.controller.ca_pem,
                         .identity = {identity->ChainPem(), KeyReferencePem(std::string(kTlsKeyUri))},
                         .server_name = settings.controller.server_name}));
  return machine;
}

Result<std::optional<ImageApprovals>> Approvals(const std::filesystem::path& extra) {
  auto image = ReadRunningImage(true, extra);
  if (!image.ok() && ReasonOf(image.status()) == Reason::kFileUnreadable)
    return std::optional<ImageApprovals>();
  if (!image.ok()) return image.status();
  return std::optional(
      ImageApprovals{.signatures = std::move(image->signatures), .policy_key = std::move(image->policy_key)});
}

void ToProto(const tpm::QuoteEvidence& quote, ByteView event_log, v1::Quote& out) {
  out.set_attest(ToText(quote.attest));
  out.set_signature(ToText(quote.signature));
  out.set_event_log(ToText(event_log));
  for (const auto& [pcr, value] : quote.pcrs) (*out.mutable_pcrs())[pcr] = wire::ToWire(value);
}

// A machine without encrypted volumes has no counter to speak of.
void PutEpoch(const Settings& settings, const Machine& machine, ByteView nonce, v1::FetchSecretRequest& out) {
  const auto state = ReadEpochState(settings.runtime);
  if (!state.ok()) return;
  const auto counter = MakeEsysCounters(machine.device)->CertifyCounter(kEpochCounter, nonce);
  if (!counter.ok()) return;
  out.mutable_epoch()->set_attest(ToText(counter->attest));
  out.mutable_epoch()->set_signature(ToText(counter->signature));
  out.mutable_epoch()->set_base(state->base);
}

Result<tpm::PcrValues> PcrsFrom(const google::protobuf::Map<std::uint32_t, std::string>& map) {
  tpm::PcrValues values;
  for (const auto& [pcr, value] : map) {
    SEALIFT_ASSIGN_OR_RETURN(values[pcr], wire::DigestFromWire("registers", value));
    if (pcr >= 24 || values.size() > 24) {
      return MakeError(Code::kInvalidArgument, Reason::kMalformed, "read secret: it names no registers");
    }
  }
  return values;
}

Result<v1::FetchSecretResponse> Ask(const Settings& settings, const SecretOptions& options,
                                    const Machine& machine, const PublicKey& policy_key) {
  const auto stub = v1::NodeSecretService::NewStub(machine.channel);
  v1::BeginFetchSecretRequest begin;
  v1::BeginFetchSecretResponse begun;
  begin.set_name(options.name);
  grpc::Status status = stub->BeginFetchSecret(wire::MakeContext(kCallDeadline).get(), begin, &begun);
  if (!status.ok()) return StatusFromGrpc(status);
  const ByteView nonce = AsBytes(begun.nonce());
  v1::FetchSecretRequest request;
  v1::FetchSecretResponse response;
  request.set_name(options.name);
  SEALIFT_ASSIGN_OR_RETURN(const tpm::QuoteEvidence quote, machine.tpm->Quote(nonce, kQuotedPcrs));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes event_log, ReadEventLog(settings.event_log));
  ToProto(quote, event_log, *request.mutable_quote());
  PutEpoch(settings, machine, nonce, request);
  SEALIFT_ASSIGN_OR_RETURN(const EndorsementKey endorsement, machine.tpm->ReadEndorsementKey());
  request.set_ek_public(ToText(endorsement.public_area));
  request.set_policy_key(ToText(policy_key.spki_der()));
  status = stub->FetchSecret(wire::MakeContext(kCallDeadline).get(), request, &response);
  if (!status.ok()) return StatusFromGrpc(status);
  if (response.name() != options.name || !tpm::IsSecretName(response.name())) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed, "read secret: it is another one");
  }
  return response;
}

Result<KeptSecret> Import(const v1::FetchSecretResponse& response, const PublicKey& policy_key,
                          const Machine& machine) {
  if (AsBytes(response.policy_key()).size() != policy_key.spki_der().size() ||
      response.policy_key() != ToText(policy_key.spki_der())) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     "read secret: it is bound to another PCR policy key than this image's");
  }
  tpm::ReleasePolicy policy{.policy_key = policy_key, .fixed = {}, .running = std::nullopt};
  SEALIFT_ASSIGN_OR_RETURN(policy.fixed, PcrsFrom(response.fixed_pcrs()));
  if (response.running_pcrs_size() > 0) {
    SEALIFT_ASSIGN_OR_RETURN(policy.running, PcrsFrom(response.running_pcrs()));
  }
  KeptSecret secret{.name = response.name(),
                    .id = response.id(),
                    .object = {},
                    .policy = std::move(policy),
                    .nonce = ToBytes(response.nonce()),
                    .ciphertext = ToBytes(response.ciphertext())};
  SEALIFT_ASSIGN_OR_RETURN(secret.object, MakeEsysImporter(machine.device)
                                              ->Import({.public_area = ToBytes(response.public_area()),
                                                        .duplicate = ToBytes(response.duplicate()),
                                                        .encrypted_seed = ToBytes(response.encrypted_seed())},
                                                       secret.policy));
  return secret;
}

// Where nobody asked for it in the clear, it is not even opened.
Status Give(const KeptSecret& secret, const SecretOptions& options, const std::shared_ptr<TpmDevice>& device,
            const std::optional<ImageApprovals>& approvals) {
  if (options.out.empty() && options.keyring.empty()) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const SecretBytes value, OpenKeptSecret(secret, approvals, *MakeEsysVault(device),
                                                                   *MakeEsysImporter(device)));
  const ByteView bytes = value.ExposeSecret();
  if (options.out == "-") {
    SEALIFT_RETURN_IF_ERROR(WriteAll(STDOUT_FILENO, "standard output", bytes));
  } else if (!options.out.empty()) {
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(options.out, bytes, 0600));
  }
  if (options.keyring.empty()) return OkStatus();
  if (::syscall(SYS_add_key, "user", options.keyring.c_str(), bytes.data(), bytes.size(),
                KEY_SPEC_USER_KEYRING) < 0) {
    return ErrnoError(Code::kFailedPrecondition, Reason::kFileUnwritable,
                      fmt::format("put secret '{}' into the kernel's keyring", secret.name), "add_key",
                      errno);
  }
  return OkStatus();
}

}  // namespace

Status FetchSecret(const Settings& settings, const SecretOptions& options) {
  SEALIFT_RETURN_IF_ERROR(ForbidCoreDumps());
  wire::InitialiseGrpc();
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  SEALIFT_ASSIGN_OR_RETURN(const auto approvals, Approvals(options.extra));
  if (!approvals) {
    return MakeError(Code::kFailedPrecondition, Reason::kPcrSignatureMissing,
                     fmt::format("fetch secret '{}': the image brings no PCR policy key", options.name));
  }
  SEALIFT_ASSIGN_OR_RETURN(const Machine machine, Connect(settings));
  SEALIFT_ASSIGN_OR_RETURN(const auto response, Ask(settings, options, machine, approvals->policy_key));
  SEALIFT_ASSIGN_OR_RETURN(const KeptSecret secret, Import(response, approvals->policy_key, machine));
  if (options.keep) SEALIFT_RETURN_IF_ERROR(WriteKeptSecret(settings.state / kKeptSecretsName, secret));
  return Give(secret, options, machine.device, approvals);
}

Status OpenSecret(const Settings& settings, const SecretOptions& options) {
  SEALIFT_RETURN_IF_ERROR(ForbidCoreDumps());
  SEALIFT_ASSIGN_OR_RETURN(const KeptSecret secret,
                           ReadKeptSecret(settings.state / kKeptSecretsName, options.name));
  SEALIFT_ASSIGN_OR_RETURN(const auto approvals, Approvals(options.extra));
  SEALIFT_ASSIGN_OR_RETURN(const auto device, OpenTpmDevice({.tcti = settings.tcti}));
  return Give(secret, options, device, approvals);
}

}  // namespace sealift::agent
