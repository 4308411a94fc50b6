#include "controller/buildhost/build_host.h"

#include <fmt/format.h>

#include <algorithm>

#include "controller/buildhost/node_trust.h"
#include "hsm/expiry.h"
#include "shared/base/files.h"
#include "shared/base/ids.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/tuf/client.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

// Handed to a token only while the certificates of what it signs with hold.
constexpr std::string_view kSigningRole = "db";
// Releases that a published build has deltas from.
constexpr std::size_t kDeltaAgainst = 2;

Status CheckOutputName(const std::string& name) {
  if (IsValidVersion(name)) return OkStatus();
  return MakeError(
      Code::kInvalidArgument, Reason::kInvalidArgument,
      fmt::format("choose output folder '{}': here it is a plain name of [A-Za-z0-9.~^+_-]", name));
}

}  // namespace

// A place in the queue.
class BuildHost::Turn {
 public:
  static Result<std::unique_ptr<Turn>> Take(BuildHost& host, const std::string& id) {
    const std::lock_guard lock(host.mutex_);
    if (host.queue_.size() > host.options_.max_waiting) {
      return MakeError(Code::kResourceExhausted, Reason::kServerBusy,
                       fmt::format("build release: {} builds wait already", host.options_.max_waiting));
    }
    host.queue_.push_back(id);
    return std::unique_ptr<Turn>(new Turn(host, id));
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() {
    const std::lock_guard lock(host_.mutex_);
    std::erase(host_.queue_, id_);
    host_.moved_.notify_all();
  }

  Status Await(const std::function<void(std::size_t)>& tell, const std::stop_token& stop) {
    std::size_t told = 0;
    for (;;) {
      std::unique_lock lock(host_.mutex_);
      const auto ahead = [&] {
        return static_cast<std::size_t>(std::find(host_.queue_.begin(), host_.queue_.end(), id_) -
                                        host_.queue_.begin());
      };
      host_.moved_.wait(lock, stop, [&] { return ahead() != told || told == 0; });
      if (stop.stop_requested())
        return MakeError(Code::kCancelled, Reason::kCancelled, "build release: it was called off");
      told = ahead();
      if (told == 0) return OkStatus();
      lock.unlock();
      if (tell) tell(told);
    }
  }

 private:
  Turn(BuildHost& host, std::string id) : host_(host), id_(std::move(id)) {}
  BuildHost& host_;
  const std::string id_;
};

std::string MakeBuildId(const Clock& clock) { return MakeUuidV7(clock.Now(), RandomBytes(10)); }

BuildHost::BuildHost(BuildHostOptions options, std::shared_ptr<hsm::KeyRing> ring, Uploader* repository,
                     std::function<Status()> on_published, const Clock& clock)
    : options_(std::move(options)),
      ring_(std::move(ring)),
      repository_(repository),
      on_published_(std::move(on_published)),
      clock_(clock) {}

Result<BuildReport> BuildHost::Build(const std::string& id, BuildRequest request,
                                     const std::string& operator_name, const BuildEvents& events,
                                     const std::stop_token& stop) {
  BuildReport report{.id = id};
  SEALIFT_RETURN_IF_ERROR(CheckBuildRequest(request));
  if (!request.publish.empty() && repository_ == nullptr) {
    return MakeError(Code::kFailedPrecondition, Reason::kBuildNotOffered,
                     "publish what was built: this build host serves no releases");
  }
  const std::string name = request.out.empty() ? report.id : request.out.string();
  SEALIFT_RETURN_IF_ERROR(CheckOutputName(name));
  request.out = options_.output / name;
  SEALIFT_RETURN_IF_ERROR(options_.sources.Admit(request));
  if (ToUnixMs(request.release.built) == 0) request.release.built = clock_.Now();
  request.release.stop = stop;
  SEALIFT_ASSIGN_OR_RETURN(const std::unique_ptr<Turn> turn, Turn::Take(*this, report.id));
  SEALIFT_RETURN_IF_ERROR(turn->Await(events.waiting, stop));
  return BuildNow(std::move(request), fmt::format("{}, build {}", operator_name, id), std::move(report),
                  events);
}

Result<BuildReport> BuildHost::BuildNow(BuildRequest request, const std::string& on_behalf,
                                        BuildReport report, const BuildEvents& events) {
  if (request.preflight_only) {
    SEALIFT_ASSIGN_OR_RETURN(report.findings, RunPreflight(request));
    report.passed = MayBeBuilt(report.findings);
    return report;
  }
  SEALIFT_ASSIGN_OR_RETURN(const hsm::InventoryKey* key, ring_->KeyFor(kSigningRole));
  SEALIFT_RETURN_IF_ERROR(hsm::CheckNotExpired(*key, clock_.Now()));
  SEALIFT_ASSIGN_OR_RETURN(const BuildKeys keys,
                           OpenBuildKeys(*ring_, !request.release.extensions.empty(), on_behalf));
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(options_.output));
  if (request.release.node_config) {
    SEALIFT_ASSIGN_OR_RETURN(request.release.node_config,
                             WithKeySetTrust(*std::move(request.release.node_config), *ring_));
  }
  SEALIFT_ASSIGN_OR_RETURN(BuildOutcome outcome, RunBuild(request, keys, events.progress));
  report.findings = outcome.built.findings;
  report.outcome = std::move(outcome);
  if (request.publish.empty()) return report;
  SEALIFT_ASSIGN_OR_RETURN(report.published, Publish(request, *report.outcome, on_behalf, events));
  if (const Status& journal = report.published->journal; !journal.ok()) {
    log::Error("the journal of what was published is not what this host saw", {{"error", Describe(journal)}});
    report.outcome->built.remarks.push_back(MessageOf(journal));
  }
  return report;
}

Result<PublishOutcome> BuildHost::Publish(const BuildRequest& request, const BuildOutcome& outcome,
                                          const std::string& on_behalf, const BuildEvents& events) {
  if (events.progress) events.progress("publish", 0, 0);
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Signer> signer, ring_->SignerFor("tuf-targets"));
  signer = OnBehalf(std::move(signer), on_behalf);
  SEALIFT_ASSIGN_OR_RETURN(const std::string root, ReadTextFile(options_.tuf_root, tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(const auto checkpoint, ring_->journal()->Checkpoint());
  std::string newest;
  if (checkpoint.has_value()) {
    newest = checkpoint->Json();
  } else {
    SEALIFT_ASSIGN_OR_RETURN(const hsm::JournalCheckpoint head, ring_->journal()->Head());
    newest = head.Json();
  }
  tuf::FileMetadataStore seen(options_.tuf_seen);
  SEALIFT_ASSIGN_OR_RETURN(PublishOutcome published,
                           PublishRelease({.build_directory = outcome.path,
                                           .channel = request.publish,
                                           .journal_checkpoint = newest,
                                           .delta_against = kDeltaAgainst},
                                          root, seen, *signer, *repository_, clock_));
  if (on_published_) SEALIFT_RETURN_IF_ERROR(on_published_());
  return published;
}

}  // namespace sealift::controller
