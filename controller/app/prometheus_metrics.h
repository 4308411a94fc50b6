// Counters and gauges for Prometheus, on a listener of their own.
//
// Names: sealift_rpcs_total{method,code}, sealift_verdicts_total{outcome}, sealift_content_bytes_total,
// sealift_policy_acts_total{act},
// sealift_nodes{state,admission,trust} (counted at each scrape), sealift_rollouts_active,
// sealift_certificate_not_after_seconds{role,generation} (Unix time).
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>

#include "controller/api/ports.h"
#include "controller/fleet/node_counts.h"

namespace sealift::controller {

// Thread-safe.
class PrometheusMetrics final : public Metrics {
 public:
  // Borrows the stores, which are read at scrapes.
  PrometheusMetrics(NodeCounts& nodes, RolloutStore& rollouts);
  ~PrometheusMetrics() override;

  // Serves /metrics at `address` ("host:port"; port 0: any) until this goes away. Returns the address in use.
  // Errors: UNAVAILABLE/LISTEN_FAILED.
  Result<std::string> Serve(const std::string& address);

  // When a certificate of the key set ends.
  void SetCertificateEnd(const std::string& role, std::uint32_t generation, UnixMillis not_after);

  void CountRpc(std::string_view method, Code code) override;
  void CountVerdict(Trust trust) override;
  void CountContentBytes(std::uint64_t bytes) override;
  void CountPolicyAct(std::string_view act) override;

 private:
  class FleetCollector;

  std::shared_ptr<prometheus::Registry> registry_;
  std::shared_ptr<FleetCollector> fleet_;
  prometheus::Family<prometheus::Counter>& rpcs_;
  prometheus::Family<prometheus::Counter>& verdicts_;
  prometheus::Family<prometheus::Counter>& policy_acts_;
  prometheus::Counter& content_bytes_;
  prometheus::Family<prometheus::Gauge>& certificate_ends_;
  // Last: it reads the others from its own threads.
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace sealift::controller
