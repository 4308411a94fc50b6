#include "controller/app/prometheus_metrics.h"

#include <absl/status/status.h>
#include <fmt/format.h>

#include <exception>

#include "shared/base/log.h"

namespace sealift::controller {
namespace {

prometheus::ClientMetric Gauge(std::vector<prometheus::ClientMetric::Label> labels, double value) {
  prometheus::ClientMetric metric;
  metric.label = std::move(labels);
  metric.gauge.value = value;
  return metric;
}

}  // namespace

// Counted when asked for, so that an idle fleet costs nothing.
class PrometheusMetrics::FleetCollector final : public prometheus::Collectable {
 public:
  FleetCollector(NodeCounts& nodes, RolloutStore& rollouts) : nodes_(nodes), rollouts_(rollouts) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    const auto nodes = nodes_.CountNodes();
    const auto rollouts = rollouts_.CountActive();
    if (!nodes.ok() || !rollouts.ok()) {
      log::Error("metrics could not be counted",
                 {{"error", Describe(nodes.ok() ? rollouts.status() : nodes.status())}});
      return families;
    }
    prometheus::MetricFamily by_state{.name = "sealift_nodes",
                                      .help = "Nodes by what they are",
                                      .type = prometheus::MetricType::Gauge,
                                      .metric = {}};
    for (const NodeGroup& group : *nodes) {
      by_state.metric.push_back(Gauge({{"state", std::string(UpdateStateName(group.state))},
                                       {"admission", std::string(AdmissionName(group.admission))},
                                       {"trust", std::string(TrustName(group.trust))}},
                                      static_cast<double>(group.nodes)));
    }
    families.push_back(std::move(by_state));
    families.push_back({.name = "sealift_rollouts_active",
                        .help = "Rollouts that have not ended",
                        .type = prometheus::MetricType::Gauge,
                        .metric = {Gauge({}, static_cast<double>(*rollouts))}});
    return families;
  }

 private:
  NodeCounts& nodes_;
  RolloutStore& rollouts_;
};

PrometheusMetrics::PrometheusMetrics(NodeCounts& nodes, RolloutStore& rollouts)
    : registry_(std::make_shared<prometheus::Registry>()),
      fleet_(std::make_shared<FleetCollector>(nodes, rollouts)),
      rpcs_(prometheus::BuildCounter()
                .Name("sealift_rpcs_total")
                .Help("Calls by method and gRPC code")
                .Register(*registry_)),
      verdicts_(prometheus::BuildCounter()
                    .Name("sealift_verdicts_total")
                    .Help("Attestation verdicts by outcome")
                    .Register(*registry_)),
      policy_acts_(prometheus::BuildCounter()
                       .Name("sealift_policy_acts_total")
                       .Help("What the attestation policy did by itself")
                       .Register(*registry_)),
      content_bytes_(prometheus::BuildCounter()
                         .Name("sealift_content_bytes_total")
                         .Help("Bytes of content sent to nodes")
                         .Register(*registry_)
                         .Add({})),
      certificate_ends_(prometheus::BuildGauge()
                            .Name("sealift_certificate_not_after_seconds")
                            .Help("Unix time at which a certificate of the key set ends")
                            .Register(*registry_)) {}

PrometheusMetrics::~PrometheusMetrics() = default;

Result<std::string> PrometheusMetrics::Serve(const std::string& address) {
  try {
    exposer_ = std::make_unique<prometheus::Exposer>(address, 1);
  } catch (const std::exception& error) {
    return MakeError(Code::kUnavailable, Reason::kListenFailed,
                     fmt::format("serve metrics at {}: {}", address, error.what()));
  }
  exposer_->RegisterCollectable(registry_);
  exposer_->RegisterCollectable(fleet_);
  const auto ports = exposer_->GetListeningPorts();
  SEALIFT_CHECK(!ports.empty());
  return fmt::format("{}:{}", address.substr(0, address.rfind(':')), ports.front());
}

void PrometheusMetrics::SetCertificateEnd(const std::string& role, std::uint32_t generation,
                                          UnixMillis not_after) {
  certificate_ends_.Add({{"role", role}, {"generation", std::to_string(generation)}})
      .Set(static_cast<double>(ToUnixMs(not_after)) / 1000);
}

void PrometheusMetrics::CountRpc(std::string_view method, Code code) {
  rpcs_.Add({{"method", std::string(method)}, {"code", absl::StatusCodeToString(code)}}).Increment();
}

void PrometheusMetrics::CountVerdict(Trust trust) {
  verdicts_.Add({{"outcome", std::string(TrustName(trust))}}).Increment();
}

void PrometheusMetrics::CountPolicyAct(std::string_view act) {
  policy_acts_.Add({{"act", std::string(act)}}).Increment();
}

void PrometheusMetrics::CountContentBytes(std::uint64_t bytes) {
  content_bytes_.Increment(static_cast<double>(bytes));
}

}  // namespace sealift::controller
