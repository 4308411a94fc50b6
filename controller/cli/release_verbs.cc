#include "controller/cli/release_verbs.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/grpc_uploader.h"
#include "controller/cli/key_material.h"
#include "hsm/key_ring.h"
#include "shared/base/files.h"
#include "shared/crypto/key_reference.h"
#include "shared/wire/channel.h"
#include "shared/wire/convert.h"

namespace sealift::cli {
namespace {

namespace fs = std::filesystem;

struct PublishArguments {
  std::string build_directory;
  std::string channel = "stable";
  std::string keys;
  std::vector<std::string> tokens;
  std::string journal;
  std::vector<std::string> generations;
  std::vector<std::string> earlier_builds;
  std::string profile;
  bool after_restore = false;
  std::size_t delta_against = 2;
};

struct ListArguments {
  std::string channel;
  std::string profile;
};

nlohmann::json LeftOutJson(const std::vector<controller::LeftOutRelease>& left_out) {
  nlohmann::json list = nlohmann::json::array();
  for (const controller::LeftOutRelease& release : left_out)
    list.push_back({{"version", release.version}, {"reason", ReasonIdOf(release.because)}});
  return list;
}

void PrintOutcome(const controller::PublishOutcome& outcome, bool as_json) {
  if (as_json) {
    const nlohmann::json value = {
        {"channel", outcome.channel},
        {"version", outcome.version},
        {"release_id", outcome.id.hex()},
        {"total_bytes", outcome.total_bytes},
        {"objects_stored", outcome.upload.stored},
        {"objects_known", outcome.upload.known},
        {"delta_bytes", outcome.delta_bytes},
        {"left_out", LeftOutJson(outcome.left_out)},
        {"targets_version", outcome.versions.targets},
        {"snapshot_version", outcome.versions.snapshot},
        {"timestamp_version", outcome.versions.timestamp},
        {"journal_finding",
         outcome.journal.ok() ? nlohmann::json() : nlohmann::json(ReasonIdOf(outcome.journal))}};
    std::printf("%s\n", value.dump(2).c_str());
    return;
  }
  std::printf("%s",
              fmt::format("published {} {}\n  release  {}\n  objects  {} new, {} known, {:.1f} MiB\n"
                          "  metadata targets {}, snapshot {}, timestamp {}\n",
                          outcome.channel, outcome.version, outcome.id.hex(), outcome.upload.stored,
                          outcome.upload.known, static_cast<double>(outcome.total_bytes) / (1u << 20),
                          outcome.versions.targets, outcome.versions.snapshot, outcome.versions.timestamp)
                  .c_str());
  for (const std::uint64_t bytes : outcome.delta_bytes)
    std::printf("  delta    %.1f KiB\n", static_cast<double>(bytes) / 1024);
}

void ShowUpload(std::uint64_t done, std::uint64_t all) { ShowProgress("upload", done, all); }

// Signed where the token with the `journal` key was given; otherwise the signed targets vouch for it.
Result<std::string> NewestCheckpoint(hsm::KeyRing& ring) {
  SEALIFT_ASSIGN_OR_RETURN(const auto checkpoint, ring.journal()->Checkpoint());
  if (checkpoint.has_value()) return checkpoint->Json();
  SEALIFT_ASSIGN_OR_RETURN(const hsm::JournalCheckpoint head, ring.journal()->Head());
  return head.Json();
}

Status Publish(const PublishArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, hsm::KeyRing::Open(arguments.keys, arguments.tokens,
                                                               arguments.journal, arguments.generations));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring->SignerFor("tuf-targets"));
  const fs::path tuf_folder = fs::path(arguments.keys) / "tuf";
  SEALIFT_ASSIGN_OR_RETURN(const std::string root,
                           ReadTextFile(tuf_folder / "1.root.json", tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(const auto uploader, ConnectUploader(arguments.profile));
  SEALIFT_ASSIGN_OR_RETURN(const std::string checkpoint, NewestCheckpoint(*ring));
  // What this build host saw published; see release_publisher.h.
  tuf::FileMetadataStore state(tuf_folder / "seen");
  const SystemClock clock;
  SEALIFT_ASSIGN_OR_RETURN(
      const controller::PublishOutcome outcome,
      controller::PublishRelease(
          {.build_directory = arguments.build_directory,
           .channel = arguments.channel,
           .progress = session.json() ? decltype(controller::PublishRequest::progress){} : ShowUpload,
           .journal_checkpoint = checkpoint,
           .after_restore = arguments.after_restore,
           .earlier_builds = {arguments.earlier_builds.begin(), arguments.earlier_builds.end()},
           .delta_against = arguments.delta_against},
          root, state, *signer, *uploader, clock));
  PrintOutcome(outcome, session.json());
  for (const controller::LeftOutRelease& release : outcome.left_out) {
    std::fprintf(stderr, "warning: no delta from %s: %s\n", release.version.c_str(),
                 Describe(release.because).c_str());
  }
  if (!outcome.journal.ok()) std::fprintf(stderr, "warning: %s\n", Describe(outcome.journal).c_str());
  return OkStatus();
}

// "unlisted": the controller knows it, and no signed metadata offers it any more.
std::string StateOf(const Result<tuf::Targets>& targets, const v1::Release& release) {
  if (!targets.ok()) return "unlisted";
  const auto listed = FindRelease(*targets, release.channel(), release.version());
  if (!listed.ok()) return "unlisted";
  return listed->withdrawn.has_value() ? "withdrawn" : "published";
}

Status List(const ListArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto uploader, ConnectUploader(arguments.profile));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<v1::Release> releases,
                           uploader->ListReleases(arguments.channel));
  // Nothing is published before the first metadata is there.
  const Result<tuf::Targets> targets = controller::ListedTargets(*uploader);
  nlohmann::json list = nlohmann::json::array();
  if (!session.json()) {
    std::printf("%-12s %-20s %-10s %10s  %-20s %s\n", "CHANNEL", "VERSION", "STATE", "MIB", "PUBLISHED",
                "RELEASE");
  }
  for (const v1::Release& release : releases) {
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest id, wire::DigestFromWire("release_id", release.release_id()));
    const std::string published = FormatRfc3339(FromUnixMs(release.published_unix_ms()));
    const std::string state = StateOf(targets, release);
    if (session.json()) {
      list.push_back({{"channel", release.channel()},
                      {"version", release.version()},
                      {"release_id", id.hex()},
                      {"published", published},
                      {"state", state},
                      {"total_bytes", release.total_bytes()}});
    } else {
      std::printf("%-12s %-20s %-10s %10.1f  %-20s %s\n", release.channel().c_str(),
                  release.version().c_str(), state.c_str(),
                  static_cast<double>(release.total_bytes()) / (1u << 20), published.c_str(),
                  id.hex().substr(0, 12).c_str());
    }
  }
  if (session.json()) std::printf("%s\n", nlohmann::json{{"releases", list}}.dump(2).c_str());
  return OkStatus();
}

}  // namespace

void ShowProgress(std::string_view what, std::uint64_t done, std::uint64_t all) {
  if (::isatty(STDERR_FILENO) == 0 || all == 0) return;
  std::fprintf(stderr, "\r%.*s %3u %%  %llu of %llu MiB%s", static_cast<int>(what.size()), what.data(),
               static_cast<unsigned>(done * 100 / all), static_cast<unsigned long long>(done >> 20),
               static_cast<unsigned long long>(all >> 20), done == all ? "\n" : "");
}

Result<std::unique_ptr<GrpcUploader>> ConnectUploader(const std::string& profile_path) {
  SEALIFT_ASSIGN_OR_RETURN(
      const wire::Profile profile,
      wire::LoadProfile(profile_path.empty() ? wire::DefaultProfilePath() : fs::path(profile_path)));
  // The profile's key may be a reference to one in a token.
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  hsm::RegisterPkcs11Resolver();
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel, wire::OpenChannel(profile));
  return std::make_unique<GrpcUploader>(channel);
}

void AddReleaseVerbs(CLI::App& app, Session& session) {
  CLI::App* release =
      app.add_subcommand("release", "The life of a release: publish, look, compare, withdraw");
  release->require_subcommand(1);

  const auto publish = std::make_shared<PublishArguments>();
  CLI::App* verb =
      AddVerb(*release, session, "publish",
              "Sign what build-uki wrote as a release of a channel and bring it to the controller",
              "sealift release publish out/ --channel stable --delta-against 3 --keys keys/ "
              "--token release='pkcs11:token=release?...'",
              [publish, &session] { return Publish(*publish, session); });
  verb->add_option("OUT", publish->build_directory, "the folder build-uki wrote")->required();
  verb->add_option("--delta-from", publish->earlier_builds,
                   "folder of an earlier build that nodes run; they then fetch what changed (repeatable)")
      ->allow_extra_args(false);
  verb->add_option(
          "--delta-against", publish->delta_against,
          "deltas from so many of the channel's newest releases, fetched from the controller; 0: none")
      ->check(CLI::Range(0, 16))
      ->capture_default_str();
  verb->add_option("--channel", publish->channel, "versions are unique and ordered within it")
      ->capture_default_str();
  verb->add_option("--keys", publish->keys, "the folder keys init wrote")->required();
  verb->add_option("--token", publish->tokens, "[GROUP=]URI of the token with the tuf-targets key")
      ->required()
      ->allow_extra_args(false);
  AddJournalOption(*verb, publish->journal);
  AddGenerationOption(*verb, publish->generations);
  verb->add_option("--profile", publish->profile,
                   "connection settings (default ~/.config/sealift/profile.toml)");
  verb->add_flag("--after-restore", publish->after_restore,
                 "the controller was restored from a backup: go beyond what was seen here before");

  const auto list = std::make_shared<ListArguments>();
  verb = AddVerb(*release, session, "list", "Releases that the controller serves",
                 "sealift release list --channel stable", [list, &session] { return List(*list, session); });
  verb->add_option("--channel", list->channel, "only this channel");
  verb->add_option("--profile", list->profile,
                   "connection settings (default ~/.config/sealift/profile.toml)");
  AddReleaseTransferVerbs(*release, session);
  AddReleaseLifeVerbs(*release, session);
}

}  // namespace sealift::cli
