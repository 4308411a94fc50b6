// Builds for others: one at a time with this host's release token, the next ones in a short queue.
//
// Thread-safe.
#pragma once

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

#include "controller/buildhost/build_job.h"
#include "controller/buildhost/source_rules.h"
#include "controller/publish/release_publisher.h"
#include "hsm/key_ring.h"
#include "shared/base/clock.h"

namespace sealift::controller {

struct BuildHostOptions {
  // Root folder of all results.
  std::filesystem::path output;
  SourceRules sources;
  // Builds that wait; one more is refused.
  std::size_t max_waiting = 4;
  // First root of the set, and a folder for what this host saw published.
  std::filesystem::path tuf_root;
  std::filesystem::path tuf_seen;
};

// Borrowed by Build; called from one thread at a time.
struct BuildEvents {
  // Builds before this one, whenever their number changes.
  std::function<void(std::size_t ahead)> waiting;
  build::Progress progress;
};

struct BuildReport {
  // Also in the signing journal, behind each record.
  std::string id;
  // Of a preflight: whether the image may be built; true of every build.
  bool passed = true;
  std::vector<build::Finding> findings;
  // Empty of a preflight.
  std::optional<BuildOutcome> outcome;
  std::optional<PublishOutcome> published;
};

// A new one: UUIDv7.
std::string MakeBuildId(const Clock& clock);

class BuildHost {
 public:
  // `ring` holds the release group's keys. `repository` is borrowed, where builds may be published; null:
  // they may not. `on_published`: after each publication.
  BuildHost(BuildHostOptions options, std::shared_ptr<hsm::KeyRing> ring, Uploader* repository,
            std::function<Status()> on_published, const Clock& clock);

  // Waits for its turn, builds, publishes where asked for. `id`: of MakeBuildId. `stop` ends it, except for a
  // publication that has begun. Errors: INVALID_ARGUMENT for an output folder that is no plain name;
  // RESOURCE_EXHAUSTED/ SERVER_BUSY; CANCELLED; PERMISSION_DENIED/BUILD_SOURCE_FORBIDDEN;
  // SIGNER_CERTIFICATE_EXPIRED; those of RunBuild and PublishRelease.
  Result<BuildReport> Build(const std::string& id, BuildRequest request, const std::string& operator_name,
                            const BuildEvents& events, const std::stop_token& stop);

 private:
  class Turn;
  Result<BuildReport> BuildNow(BuildRequest request, const std::string& on_behalf, BuildReport report,
                               const BuildEvents& events);
  Result<PublishOutcome> Publish(const BuildRequest& request, const BuildOutcome& outcome,
                                 const std::string& on_behalf, const BuildEvents& events);

  const BuildHostOptions options_;
  const std::shared_ptr<hsm::KeyRing> ring_;
  Uploader* const repository_;
  const std::function<Status()> on_published_;
  const Clock& clock_;

  std::mutex mutex_;
  std::condition_variable_any moved_;
  // By ids: the first one builds.
  std::deque<std::string> queue_;
};

}  // namespace sealift::controller
