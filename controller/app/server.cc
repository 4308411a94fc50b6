#include "controller/app/server.h"

#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stop_token>
#include <thread>

#include "controller/api/admission_service.h"
#include "controller/api/attestation_service.h"
#include "controller/api/baseline_service.h"
#include "controller/api/build_service.h"
#include "controller/api/content_service.h"
#include "controller/api/enrolment_service.h"
#include "controller/api/fleet_service.h"
#include "controller/api/node_secret_service.h"
#include "controller/api/node_service.h"
#include "controller/api/secret_service.h"
#include "controller/api/site_service.h"
#include "controller/app/alert_hook.h"
#include "controller/app/expiry_watch.h"
#include "controller/app/prometheus_metrics.h"
#include "controller/app/quote_attestor.h"
#include "controller/store/sqlite_stores.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/order/dsse.h"
#include "shared/wire/channel.h"
#include "shared/wire/tls.h"

namespace sealift::controller {
namespace {

constexpr auto kRefreshInterval = std::chrono::minutes(1);
// A controller that is started every day collects, too.
constexpr std::chrono::milliseconds kFirstCollection = std::chrono::minutes(15);
// Service name of the health check that stops serving once a certificate of the key set ends within 90 days.
constexpr char kCertificatesHealth[] = "sealift.certificates";
constexpr int kEnrolmentMaxMessageBytes = 2 << 20;
// Threads of the synchronous servers: the bound on calls under way at once.
constexpr int kFleetThreads = 512;
constexpr int kEnrolmentThreads = 64;
// A node that has nothing to say costs no connection.
constexpr int kMaxConnectionIdleMs = 5 * 60'000;
constexpr int kMinPingIntervalMs = 10'000;
// A peer that vanished is noticed, and what it held is free again.
constexpr int kKeepaliveMs = 60'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
// The enrolment listener is open to strangers: none stays long.
constexpr int kMaxEnrolmentConnectionMs = 10 * 60'000;

struct Listener {
  std::unique_ptr<grpc::Server> server;
  std::string address;
};

Result<Listener> Listen(grpc::ServerBuilder& builder, const std::string& address,
                        const std::shared_ptr<grpc::ServerCredentials>& credentials, AccessGate& gate) {
  credentials->SetAuthMetadataProcessor(gate.Processor());
  int port = 0;
  builder.AddListeningPort(address, credentials, &port);
  // Two controllers on one port would share its calls by chance.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kMaxConnectionIdleMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  Listener listener{.server = builder.BuildAndStart()};
  if (!listener.server || port == 0) {
    return MakeError(Code::kUnavailable, Reason::kListenFailed, fmt::format("listen at {}", address));
  }
  listener.address = fmt::format("{}:{}", address.substr(0, address.rfind(':')), port);
  return listener;
}

// Handlers wait for the disk. With gRPC's default of two pollers each such wait starts a thread and each end
// of one stops it; this many stay instead.
constexpr int kStandingThreads = 64;
constexpr int kPollersAtLeast = 1;

void SetThreads(grpc::ServerBuilder& builder, const char* name, int threads) {
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, kPollersAtLeast);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, kStandingThreads);
  grpc::ResourceQuota quota(name);
  quota.SetMaxThreads(threads);
  builder.SetResourceQuota(quota);
}

// A timestamp without a checkpoint is better than none; the log says why.
std::string NewestCheckpoint(hsm::Journal& journal) {
  const auto checkpoint = journal.Checkpoint();
  if (!checkpoint.ok()) {
    log::Error("the signing journal could not be checkpointed", {{"error", Describe(checkpoint.status())}});
    return {};
  }
  return checkpoint->has_value() ? (*checkpoint)->Json() : std::string();
}

}  // namespace

// In order of need: each member may use those above it, and goes before them.
struct ControllerServer::Parts {
  Parts(const ControllerConfig& configuration, OnlineKeys online_keys, Clock& the_clock)
      : config(configuration), keys(std::move(online_keys)), clock(the_clock) {}

  const ControllerConfig config;
  const OnlineKeys keys;
  Clock& clock;
  std::stop_source stop;

  std::unique_ptr<SqliteStores> stores;
  std::unique_ptr<ContentStore> content;
  std::unique_ptr<TufRepository> repository;
  std::unique_ptr<ContentKeeper> keeper;
  std::unique_ptr<PrometheusMetrics> metrics;
  std::unique_ptr<AccessGate> gate;
  std::unique_ptr<RpcRunner> runner;
  std::unique_ptr<RolloutEngine> engine;
  std::unique_ptr<RequestDesk> desk;
  std::unique_ptr<SecretDesk> secret_desk;
  std::unique_ptr<AlertHook> alerts;
  std::unique_ptr<PolicyEnforcer> enforcer;
  std::unique_ptr<ReleaseExpectations> expectations;
  std::unique_ptr<RevocationExpectations> with_revocations;
  std::unique_ptr<FirmwareJudge> firmware;
  std::unique_ptr<QuoteAttestor> attestor;
  std::unique_ptr<NodeCa> node_ca;
  std::unique_ptr<EnrolmentSessions> sessions;
  std::unique_ptr<Enrolment> enrolment;

  std::unique_ptr<EnrolmentServiceImpl> enrolment_service;
  std::unique_ptr<NodeServiceImpl> node_service;
  std::unique_ptr<FleetServiceImpl> fleet_service;
  std::unique_ptr<AdmissionServiceImpl> admission_service;
  std::unique_ptr<AttestationServiceImpl> attestation_service;
  std::unique_ptr<SecretServiceImpl> secret_service;
  std::unique_ptr<NodeSecretServiceImpl> node_secret_service;
  std::unique_ptr<BaselineServiceImpl> baseline_service;
  std::unique_ptr<LocalUploader> own_repository;
  std::unique_ptr<BuildHost> build_host;
  std::unique_ptr<BuildServiceImpl> build_service;
  std::unique_ptr<ContentServiceImpl> content_service;
  std::unique_ptr<SiteServiceImpl> site_service;
  Listener enrolment_listener;
  Listener fleet_listener;
  ServerAddresses addresses;
  std::unique_ptr<ExpiryWatch> expiry;
  std::jthread engine_thread;
  std::jthread refresh_thread;
  std::jthread collect_thread;
  std::jthread alert_thread;

  Status OpenStores();
  Status OpenAttestation();
  Status OpenBuildHost();
  void MakeServices(NodeAttestor* given_attestor);
  Status ListenAll();
  void RunTasks();
  void CheckExpiry();
  void CollectBySchedule();
  Status TellReady() const;
};

Status ControllerServer::Parts::OpenStores() {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(config.state_dir, 0700));
  SEALIFT_ASSIGN_OR_RETURN(stores, SqliteStores::Open(config.state_dir, {.keep = config.evidence_kept}));
  SEALIFT_ASSIGN_OR_RETURN(content, ContentStore::Open(config.state_dir / "content"));
  SEALIFT_ASSIGN_OR_RETURN(const std::string root, ReadTextFile(config.tuf_root));
  TufRepositoryOptions options{.directory = config.state_dir / "tuf",
                               .newer_roots = config.tuf_root.parent_path(),
                               .snapshot_lifetime = config.snapshot_lifetime,
                               .timestamp_lifetime = config.timestamp_lifetime};
  if (keys.journal != nullptr) {
    options.journal_checkpoint = [journal = keys.journal] { return NewestCheckpoint(*journal); };
  }
  SEALIFT_ASSIGN_OR_RETURN(repository,
                           TufRepository::Open(std::move(options), root, keys.tuf, *content, clock));
  keeper = std::make_unique<ContentKeeper>(config.state_dir / "content", config.state_dir / "tuf", *content,
                                           config.content_grace);
  // After a crash between publication and record, or a restored database. What cannot be recorded was logged;
  // the daemon has to run for its content to be uploaded again.
  if (!RecordReleases(*repository, *content, stores->releases()).ok()) {
    log::Warning("some releases are published but damaged here; publish them again");
  }
  return OkStatus();
}

Status ControllerServer::Parts::OpenAttestation() {
  SEALIFT_ASSIGN_OR_RETURN(KeySet secure_boot, LoadKeySet(config.secure_boot));
  TpmMakers makers;
  if (!config.tpm_makers.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(makers, LoadTpmMakers(config.tpm_makers));
    if (makers.anchors.empty()) {
      return MakeError(
          Code::kInvalidArgument, Reason::kPolicyUnenforceable,
          fmt::format("load TPM makers' CAs: there is none in '{}'", config.tpm_makers.string()));
    }
  }
  expectations = std::make_unique<ReleaseExpectations>(stores->releases(), std::move(secure_boot));
  firmware = std::make_unique<FirmwareJudge>(stores->baselines(), config.baselines);
  with_revocations = std::make_unique<RevocationExpectations>(*expectations, stores->revocations(),
                                                              config.baselines.machines);
  attestor = std::make_unique<QuoteAttestor>(*with_revocations, stores->quote_clocks(), *firmware);
  metrics = std::make_unique<PrometheusMetrics>(stores->node_counts(), stores->rollouts());
  engine = std::make_unique<RolloutEngine>(stores->nodes(), stores->rollouts(), clock);
  const auto count = [this](std::string_view act) { metrics->CountPolicyAct(act); };
  alerts = std::make_unique<AlertHook>(config.alert, clock, count);
  enforcer = std::make_unique<PolicyEnforcer>(
      config.attestation,
      PolicyEnforcer::Parts{.store = stores->policy(),
                            .audit = stores->audit(),
                            .engine = *engine,
                            .clock = clock,
                            .count = count,
                            .alert = [this](const PolicyAct& act) { alerts->Send(act); }});
  node_ca =
      std::make_unique<NodeCa>(keys.node_ca, keys.node_ca_certificate, config.certificate_lifetime, clock);
  sessions = MakeMemoryEnrolmentSessions();
  enrolment = std::make_unique<Enrolment>(EnrolmentParts{.nodes = stores->nodes(),
                                                         .node_status = stores->node_status(),
                                                         .admission = stores->admission(),
                                                         .evidence = stores->evidence(),
                                                         .certificates = stores->certificates(),
                                                         .join_tokens = stores->join_tokens(),
                                                         .refusals = stores->refusals(),
                                                         .quote_clocks = stores->quote_clocks(),
                                                         .sessions = *sessions,
                                                         .expectations = *with_revocations,
                                                         .issuer = *node_ca,
                                                         .clock = clock,
                                                         .firmware = firmware.get(),
                                                         .enforcer = enforcer.get()},
                                          std::move(makers), EnrolmentOptions{.policy = config.admission});
  return OkStatus();
}

Status ControllerServer::Parts::OpenBuildHost() {
  if (keys.release == nullptr) return OkStatus();
  BuildHostOptions options{.output = config.build.output,
                           .max_waiting = config.build.max_waiting,
                           .tuf_root = config.tuf_root,
                           .tuf_seen = config.state_dir / "build-seen"};
  SEALIFT_ASSIGN_OR_RETURN(options.sources, SourceRules::Parse(config.build.sources));
  own_repository = std::make_unique<LocalUploader>(*repository, *content);
  build_host = std::make_unique<BuildHost>(
      std::move(options), keys.release, own_repository.get(),
      [this] {
        // Published it is; what cannot be recorded is in the log.
        (void)RecordReleases(*repository, *content, stores->releases());
        return OkStatus();
      },
      clock);
  return OkStatus();
}

void ControllerServer::Parts::MakeServices(NodeAttestor* given_attestor) {
  gate = std::make_unique<AccessGate>(
      GateOptions{
          .node_cas = keys.node_cas,
          .operator_cas = keys.operator_cas,
          .on_refusal = [this](std::string_view method, Code code) { metrics->CountRpc(method, code); }},
      stores->certificates(), clock);
  runner = std::make_unique<RpcRunner>(*gate, stores->audit(), *metrics, clock);
  desk = std::make_unique<RequestDesk>(RequestDeskParts{.requests = stores->requests(),
                                                        .escrow = stores->escrow(),
                                                        .nodes = stores->nodes(),
                                                        .certificates = stores->certificates(),
                                                        .clock = clock,
                                                        .operator_cas = keys.operator_cas,
                                                        .orders = keys.orders,
                                                        .orders_roots = keys.orders_roots,
                                                        .delegation = [file = config.orders_delegation] {
                                                          return ReadTextFile(file, order::kMaxEnvelopeBytes);
                                                        }});
  enrolment_service = std::make_unique<EnrolmentServiceImpl>(*runner, *enrolment);
  NodeAttestor& judge = given_attestor == nullptr ? static_cast<NodeAttestor&>(*attestor) : *given_attestor;
  node_service = std::make_unique<NodeServiceImpl>(NodeServiceParts{.runner = *runner,
                                                                    .nodes = stores->nodes(),
                                                                    .node_status = stores->node_status(),
                                                                    .evidence = stores->evidence(),
                                                                    .escrow = stores->escrow(),
                                                                    .desk = *desk,
                                                                    .engine = *engine,
                                                                    .attestor = judge,
                                                                    .enforcer = *enforcer,
                                                                    .repository = *repository,
                                                                    .content = *content,
                                                                    .metrics = *metrics,
                                                                    .clock = clock,
                                                                    .policy = config.check_in,
                                                                    .limits = config.node_calls});
  fleet_service =
      std::make_unique<FleetServiceImpl>(FleetServiceParts{.runner = *runner,
                                                           .nodes = stores->nodes(),
                                                           .rollouts = stores->rollouts(),
                                                           .releases = stores->releases(),
                                                           .admission = stores->admission(),
                                                           .audit = stores->audit(),
                                                           .certificates = stores->certificates(),
                                                           .requests = stores->requests(),
                                                           .escrow = stores->escrow(),
                                                           .desk = *desk,
                                                           .engine = *engine,
                                                           .repository = *repository,
                                                           .content = *content,
                                                           .clock = clock,
                                                           .approval_admits = config.admission.approval,
                                                           .stop = stop.get_token()});
  admission_service =
      std::make_unique<AdmissionServiceImpl>(AdmissionServiceParts{.runner = *runner,
                                                                   .inventory = stores->inventory(),
                                                                   .join_tokens = stores->join_tokens(),
                                                                   .refusals = stores->refusals(),
                                                                   .clock = clock});
  attestation_service =
      std::make_unique<AttestationServiceImpl>(*runner, stores->nodes(), stores->evidence());
  secret_desk = std::make_unique<SecretDesk>(SecretDeskParts{.secrets = stores->secrets(),
                                                             .releases = stores->releases(),
                                                             .keys = keys.secrets.get(),
                                                             .clock = clock});
  secret_service = std::make_unique<SecretServiceImpl>(SecretServiceParts{.runner = *runner,
                                                                          .nodes = stores->nodes(),
                                                                          .secrets = stores->secrets(),
                                                                          .desk = *secret_desk,
                                                                          .clock = clock});
  node_secret_service =
      std::make_unique<NodeSecretServiceImpl>(NodeSecretServiceParts{.runner = *runner,
                                                                     .nodes = stores->nodes(),
                                                                     .evidence = stores->evidence(),
                                                                     .audit = stores->audit(),
                                                                     .attestor = judge,
                                                                     .desk = *secret_desk,
                                                                     .metrics = *metrics,
                                                                     .clock = clock});
  baseline_service = std::make_unique<BaselineServiceImpl>(
      *runner, stores->baselines(), stores->revocations(), config.baselines.machines, clock);
  build_service = std::make_unique<BuildServiceImpl>(*runner, build_host.get(), stop.get_token());
  site_service = std::make_unique<SiteServiceImpl>(SiteServiceParts{.runner = *runner,
                                                                    .nodes = stores->nodes(),
                                                                    .certificates = stores->certificates(),
                                                                    .content = *content,
                                                                    .clock = clock,
                                                                    .node_cas = keys.node_cas});
  content_service = std::make_unique<ContentServiceImpl>(ContentServiceParts{.runner = *runner,
                                                                             .content = *content,
                                                                             .keeper = *keeper,
                                                                             .repository = *repository,
                                                                             .releases = stores->releases()});
}

Status ControllerServer::Parts::ListenAll() {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::string client_cas;
  for (const Certificate& ca : keys.node_cas) client_cas += ca.Pem();
  for (const Certificate& ca : keys.operator_cas) client_cas += ca.Pem();
  SEALIFT_ASSIGN_OR_RETURN(
      auto fleet_credentials,
      wire::MakeServerCredentials(keys.tls, wire::ClientCertificates::kRequired, client_cas));
  SEALIFT_ASSIGN_OR_RETURN(auto enrolment_credentials,
                           wire::MakeServerCredentials(keys.tls, wire::ClientCertificates::kNone, ""));

  grpc::ServerBuilder fleet;
  fleet.RegisterService(node_service.get())
      .RegisterService(fleet_service.get())
      .RegisterService(admission_service.get())
      .RegisterService(attestation_service.get())
      .RegisterService(secret_service.get())
      .RegisterService(node_secret_service.get())
      .RegisterService(baseline_service.get())
      .RegisterService(build_service.get())
      .RegisterService(content_service.get())
      .RegisterService(site_service.get());
  fleet.SetMaxReceiveMessageSize(wire::kMaxMessageBytes);
  SetThreads(fleet, "fleet", kFleetThreads);
  SEALIFT_ASSIGN_OR_RETURN(fleet_listener, Listen(fleet, config.listen_fleet, fleet_credentials, *gate));
  addresses.fleet = fleet_listener.address;

  grpc::ServerBuilder strangers;
  strangers.RegisterService(enrolment_service.get());
  strangers.SetMaxReceiveMessageSize(kEnrolmentMaxMessageBytes);
  strangers.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, kMaxEnrolmentConnectionMs);
  SetThreads(strangers, "enrolment", kEnrolmentThreads);
  SEALIFT_ASSIGN_OR_RETURN(enrolment_listener,
                           Listen(strangers, config.listen_enrolment, enrolment_credentials, *gate));
  addresses.enrolment = enrolment_listener.address;

  if (!config.listen_metrics.empty()) {
    for (const hsm::InventoryKey& key : keys.inventory.keys)
      if (key.has_certificate) metrics->SetCertificateEnd(key.role, key.generation, key.not_after);
    SEALIFT_ASSIGN_OR_RETURN(addresses.metrics, metrics->Serve(config.listen_metrics));
  }
  return OkStatus();
}

void ControllerServer::Parts::RunTasks() {
  engine_thread = std::jthread([this] { engine->Run(stop.get_token()); });
  expiry = std::make_unique<ExpiryWatch>(keys.inventory, clock);
  CheckExpiry();
  refresh_thread = std::jthread([this] {
    SystemClock waiting;
    do {
      CheckExpiry();
      if (const auto refreshed = repository->RefreshIfDue(); !refreshed.ok()) {
        log::Error("metadata could not be signed again", {{"error", Describe(refreshed.status())}});
      }
      if (keys.journal != nullptr) keys.journal->CheckpointIfDue();
    } while (waiting.SleepFor(kRefreshInterval, stop.get_token()));
  });
  alert_thread = std::jthread([this] { alerts->Run(stop.get_token()); });
  if (config.collect_interval.count() > 0) collect_thread = std::jthread([this] { CollectBySchedule(); });
}

void ControllerServer::Parts::CollectBySchedule() {
  SystemClock waiting;
  auto wait = std::min(kFirstCollection, config.collect_interval);
  while (waiting.SleepFor(wait, stop.get_token())) {
    wait = config.collect_interval;
    const auto collected = keeper->Collect(false);
    if (collected.ok() || ReasonOf(collected.status()) == Reason::kRepositoryEmpty) continue;
    log::Error("unused content could not be collected", {{"error", Describe(collected.status())}});
  }
}

void ControllerServer::Parts::CheckExpiry() {
  const auto ending = expiry->CheckIfDue();
  if (!ending) return;
  for (const Listener* listener : {&enrolment_listener, &fleet_listener})
    listener->server->GetHealthCheckService()->SetServingStatus(kCertificatesHealth, ending->empty());
}

Status ControllerServer::Parts::TellReady() const {
  log::Info("controller listens", {{"path", config.state_dir.string()},
                                   {"peer", fmt::format("fleet {} enrolment {} metrics {}", addresses.fleet,
                                                        addresses.enrolment, addresses.metrics)}});
  if (config.ready_file.empty()) return OkStatus();
  const nlohmann::json ready = {
      {"fleet", addresses.fleet}, {"enrolment", addresses.enrolment}, {"metrics", addresses.metrics}};
  return WriteFileAtomically(config.ready_file, AsBytes(ready.dump() + "\n"));
}

Result<std::unique_ptr<ControllerServer>> ControllerServer::Start(const ControllerConfig& config,
                                                                  OnlineKeys keys, Clock& clock,
                                                                  Overrides overrides) {
  auto parts = std::make_unique<Parts>(config, std::move(keys), clock);
  SEALIFT_RETURN_IF_ERROR(parts->OpenStores());
  SEALIFT_RETURN_IF_ERROR(parts->OpenAttestation());
  SEALIFT_RETURN_IF_ERROR(parts->OpenBuildHost());
  parts->MakeServices(overrides.attestor);
  // From here on its destructor has something to stop.
  std::unique_ptr<ControllerServer> server(new ControllerServer(std::move(parts)));
  SEALIFT_RETURN_IF_ERROR(server->parts_->ListenAll());
  server->parts_->RunTasks();
  SEALIFT_RETURN_IF_ERROR(server->parts_->TellReady());
  return server;
}

ControllerServer::ControllerServer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

ControllerServer::~ControllerServer() { Stop(); }

const ServerAddresses& ControllerServer::addresses() const { return parts_->addresses; }

void ControllerServer::Stop() {
  parts_->stop.request_stop();
  // It tells the listeners of certificates that end.
  if (parts_->refresh_thread.joinable()) parts_->refresh_thread.join();
  const auto deadline = std::chrono::system_clock::now() + parts_->config.drain;
  for (Listener* listener : {&parts_->enrolment_listener, &parts_->fleet_listener}) {
    if (!listener->server) continue;
    listener->server->Shutdown(deadline);
    listener->server->Wait();
    listener->server.reset();
  }
  if (parts_->engine_thread.joinable()) parts_->engine_thread.join();
  if (parts_->collect_thread.joinable()) parts_->collect_thread.join();
  if (parts_->alert_thread.joinable()) parts_->alert_thread.join();
  if (parts_->keys.journal != nullptr) NewestCheckpoint(*parts_->keys.journal);
}

}  // namespace sealift::controller
