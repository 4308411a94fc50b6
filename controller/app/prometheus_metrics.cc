#include "controller/app/prometheus_metrics.h"

#include <absl/status/status.h>
#include <fmt/format.h>

#include <exception>
#include <map>
#include <tuple>

#include "shared/base/log.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kPage = 1000;

using Group = std::tuple<std::string, std::string, std::string>;

Result<std::map<Group, double>> CountNodes(NodeStore& nodes) {
  std::map<Group, double> counts;
  NodeQuery query{.limit = kPage};
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const auto page, nodes.List(query));
    for (const Node& node : page) {
      const Trust trust = node.last_verdict ? node.last_verdict->trust : Trust::kUnspecified;
      ++counts[{std::string(UpdateStateName(node.status.state)), std::string(AdmissionName(node.admission)),
                std::string(TrustName(trust))}];
    }
    if (page.size() < kPage) return counts;
    query.after_id = page.back().id.text();
  }
}

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
  FleetCollector(NodeStore& nodes, RolloutStore& rollouts) : nodes_(nodes), rollouts_(rollouts) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    const auto nodes = CountNodes(nodes_);
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
    for (const auto& [group, count] : *nodes) {
      const auto& [state, admission, trust] = group;
      by_state.metric.push_back(Gauge({{"state", state}, {"admission", admission}, {"trust", trust}}, count));
    }
    families.push_back(std::move(by_state));
    families.push_back({.name = "sealift_rollouts_active",
                        .help = "Rollouts that have not ended",
                        .type = prometheus::MetricType::Gauge,
                        .metric = {Gauge({}, static_cast<double>(*rollouts))}});
    return families;
  }

 private:
  NodeStore& nodes_;
  RolloutStore& rollouts_;
};

PrometheusMetrics::PrometheusMetrics(NodeStore& nodes, RolloutStore& rollouts)
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

void PrometheusMetrics::CountContentBytes(std::uint64_t bytes) {
  content_bytes_.Increment(static_cast<double>(bytes));
}

}  // namespace sealift::controller
