// Settings of sealift-controller: one TOML file, validated whole into an immutable struct.
//
//   state_dir = "/var/lib/sealift"            # database, evidence, content, published metadata
//   keys = "/etc/sealift/keys"                # the public folder that `sealift keys init` wrote
//   tokens = ["online=pkcs11:token=..."]      # as --token; `online` only: root and custody are refused
//   generations = []                          # "ROLE=N": which one signs, not the oldest in a token
//   journal = "<state_dir>/journal"           # signing journal; sealift journal verify reads it
//
//   [listen]
//   fleet = "0.0.0.0:7443"                    # operators and nodes; client certificate required
//   enrolment = "0.0.0.0:7444"                # machines that are no nodes yet
//   metrics = "127.0.0.1:9464"                # Prometheus; "" is off
//   ready_file = ""                           # JSON with the addresses in use, written when all listen
//
//   [tls]
//   names = []                                # DNS names and IP addresses for which the node CA issues the
//   server's
//                                             # certificate at each start; none: the certificate of `keys
//                                             init`
//
//   [tuf]
//   root = "<keys>/tuf/1.root.json"           # the first root of this set of keys; later ones beside it are
//                                             # taken over at each start
//   snapshot_hours = 168                      # how long a signature holds; renewed at half time
//   timestamp_hours = 24
//
//   [orders]
//   delegation = "<keys>/orders-delegation.json"   # read with each approval; sealift keys delegate-orders
//
//   [enrolment]
//   admit = "ek-list join-token approval"      # which of these let a machine in (docs/admission.md); without
//                                             # tpm_makers only ek-list can be kept, and is the default
//   tpm_makers = ""                           # folder of TPM makers' CA certificates; "" accepts listed EKs
//   only secure_boot = "<keys>"                    # folder of PK.esl, KEK.esl, db.esl as enrolled
//
//   [attestation]                             # docs/attestation.md
//   baseline_machines = 3                     # so many of a model and firmware version, and more than half,
//                                             # confirm what their firmware measures
//   baseline_outlier = "unknown"              # what a machine is that shows neither an approved nor a
//                                             # confirmed baseline: "unknown" or "untrusted"
//   on_untrusted = "alert"                    # of: alert quarantine deny-renewal pause-rollouts; or "none"
//   on_unknown = "alert"
//   quarantine_percent = 0                    # required with quarantine: at most this share of the fleet
//   alert_command = []                        # program (absolute path) and arguments; told of each act of
//                                             # "alert", by JSON on its standard input
//   alert_timeout_ms = 10000                  # it is killed then
//   alert_per_minute = 20                     # more are counted and told together
//
//   [nodes]
//   certificate_hours = 24                    # a node's certificate; it renews by itself
//   poll_ms = 30000                           # between check-ins of a settled node
//   busy_poll_ms = 5000                       # of one that has a version to reach
//   quote_interval_ms = 3600000               # a trusted verdict is renewed after this
//   quote_retry_ms = 15000                    # after one that was not trusted
//   call_burst = 60                           # check-ins and reports of one node at once; then one each
//   call_refill_ms = 500                      # so often
//   total_burst = 20000                       # the same of all nodes together
//   total_per_second = 4000
//   evidence_kept = 200                       # verdicts with their evidence, of each node, that say what the
//                                             # one before says; ten times as many that differ; 0: all
//   piece_ms = 30000                          # how long a node may take over 64 KiB of content
//
//   [log]
//   level = "info"                            # debug, info, warning, error
//
//   [build]                                   # optional: offers BuildService; off without tokens
//   tokens = []                               # "release=pkcs11:token=..."; root and custody are refused
//   output = "<state_dir>/builds"             # folder of the results
//   sources = []                              # what may be built from: absolute folders, and
//                                             # "docker://HOST/PATH" for images below it
//   max_waiting = 4                           # builds that wait while one runs; more are refused
//
//   [content]
//   collect_interval_ms = 86400000            # how often unused content is removed; 0: only when asked
//   grace_ms = 86400000                       # it stays this long after it was uploaded or asked for
//
//   [shutdown]
//   drain_ms = 5000                           # how long calls under way may take
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "controller/api/call_limits.h"
#include "controller/app/alert_hook.h"
#include "controller/attest/admission_policy.h"
#include "controller/attest/firmware_judge.h"
#include "controller/fleet/check_in_policy.h"
#include "controller/fleet/policy_enforcer.h"
#include "shared/base/log.h"
#include "shared/base/status.h"

namespace sealift::controller {

struct BuildConfig {
  // None: no builds.
  std::vector<std::string> tokens;
  std::filesystem::path output;
  std::vector<std::string> sources;
  std::size_t max_waiting = 0;
};

struct ControllerConfig {
  std::filesystem::path state_dir;
  std::filesystem::path keys;
  std::vector<std::string> tokens;
  // As --generation of `sealift`.
  std::vector<std::string> generations;
  std::filesystem::path journal;
  std::string listen_fleet;
  std::string listen_enrolment;
  std::string listen_metrics;
  std::filesystem::path ready_file;
  std::vector<std::string> dns_names;
  std::vector<std::string> ip_addresses;
  std::filesystem::path tuf_root;
  std::chrono::hours snapshot_lifetime{};
  std::chrono::hours timestamp_lifetime{};
  std::filesystem::path orders_delegation;
  std::filesystem::path tpm_makers;
  AdmissionPolicy admission;
  std::filesystem::path secure_boot;
  std::chrono::hours certificate_lifetime{};
  CheckInPolicy check_in;
  NodeCallLimits node_calls;
  std::size_t evidence_kept = 0;
  BaselineRules baselines;
  AttestationPolicy attestation;
  AlertOptions alert;
  BuildConfig build;
  // Zero: no collections by schedule.
  std::chrono::milliseconds collect_interval{};
  std::chrono::milliseconds content_grace{};
  log::Level log_level = log::Level::kInfo;
  std::chrono::milliseconds drain{};
};

// Relative paths are relative to `folder`, the configuration file's. Errors: INVALID_ARGUMENT/CONFIG_INVALID
// naming every problem; INVALID_ARGUMENT/POLICY_UNENFORCEABLE.
Result<ControllerConfig> ParseControllerConfig(std::string_view text, const std::filesystem::path& source);
// Errors: those of ReadTextFile and ParseControllerConfig.
Result<ControllerConfig> LoadControllerConfig(const std::filesystem::path& path);

}  // namespace sealift::controller
