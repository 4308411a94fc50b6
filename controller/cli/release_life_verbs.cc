// sealift release show|withdraw|diff: the life of a release after it was built.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/fleet_client.h"
#include "controller/cli/key_material.h"
#include "controller/cli/release_diff.h"
#include "controller/cli/release_verbs.h"
#include "hsm/key_ring.h"
#include "shared/base/files.h"
#include "shared/release/release_targets.h"

namespace sealift::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct NamedRelease {
  std::string version;
  std::string channel = "stable";
  std::string profile;
};

struct WithdrawArguments {
  NamedRelease release;
  std::string because;
  std::string keys;
  std::vector<std::string> tokens;
  std::string journal;
  std::vector<std::string> generations;
  bool after_restore = false;
};

struct DiffArguments {
  std::string a;
  std::string b;
};

// Ids of the nodes that said they run that version.
Result<std::vector<std::string>> NodesRunning(const NamedRelease& release) {
  SEALIFT_ASSIGN_OR_RETURN(FleetClient client, FleetClient::Connect(release.profile));
  SEALIFT_ASSIGN_OR_RETURN(const auto nodes, client.AllNodes(""));
  std::vector<std::string> running;
  for (const v1::Node& node : nodes) {
    const bool other_channel = node.has_desired() && !node.desired().channel().empty() &&
                               node.desired().channel() != release.channel;
    if (node.running().version() == release.version && !other_channel) running.push_back(node.id());
  }
  return running;
}

void PrintNodes(const std::vector<std::string>& nodes) {
  std::printf("  running on %zu node%s%s\n", nodes.size(), nodes.size() == 1 ? "" : "s",
              nodes.empty() ? "" : ":");
  for (const std::string& node : nodes) std::printf("    %s\n", node.c_str());
}

Status Show(const NamedRelease& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto uploader, ConnectUploader(arguments.profile));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Targets targets, controller::ListedTargets(*uploader));
  SEALIFT_ASSIGN_OR_RETURN(const ListedRelease release,
                           FindRelease(targets, arguments.channel, arguments.version));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<std::string> nodes, NodesRunning(arguments));
  const std::string prefix = FileTargetName(release.channel, release.version, "");
  Json files = Json::array();
  for (const auto& [name, target] : targets.targets) {
    if (!name.starts_with(prefix)) continue;
    files.push_back(
        {{"path", name.substr(prefix.size())}, {"size", target.length}, {"sha256", target.sha256.hex()}});
  }
  const std::string published = release.published.has_value() ? FormatRfc3339(*release.published) : "";
  if (session.json()) {
    Json value = {{"channel", release.channel},
                  {"version", release.version},
                  {"release_id", release.id.hex()},
                  {"published", published},
                  {"files", files},
                  {"running_nodes", nodes},
                  {"state", release.withdrawn.has_value() ? "withdrawn" : "published"}};
    if (release.withdrawn.has_value()) {
      value["withdrawn"] = {{"at", FormatRfc3339(release.withdrawn->at)},
                            {"because", release.withdrawn->because}};
    }
    std::printf("%s\n", value.dump(2).c_str());
    return OkStatus();
  }
  std::printf("%s %s\n  release   %s\n  published %s\n", release.channel.c_str(), release.version.c_str(),
              release.id.hex().c_str(), published.c_str());
  if (release.withdrawn.has_value()) {
    std::printf("  withdrawn %s: %s\n", FormatRfc3339(release.withdrawn->at).c_str(),
                release.withdrawn->because.c_str());
  }
  for (const Json& file : files) {
    std::printf("  %s %12llu  %s\n", file["sha256"].get<std::string>().substr(0, 12).c_str(),
                static_cast<unsigned long long>(file["size"].get<std::uint64_t>()),
                file["path"].get<std::string>().c_str());
  }
  PrintNodes(nodes);
  return OkStatus();
}

Status Withdraw(const WithdrawArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto ring, hsm::KeyRing::Open(arguments.keys, arguments.tokens,
                                                               arguments.journal, arguments.generations));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring->SignerFor("tuf-targets"));
  const fs::path tuf_folder = fs::path(arguments.keys) / "tuf";
  SEALIFT_ASSIGN_OR_RETURN(const std::string root,
                           ReadTextFile(tuf_folder / "1.root.json", tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(const auto uploader, ConnectUploader(arguments.release.profile));
  tuf::FileMetadataStore state(tuf_folder / "seen");
  const SystemClock clock;
  SEALIFT_ASSIGN_OR_RETURN(const controller::PublishedVersions versions,
                           controller::PublishWithdrawal({.channel = arguments.release.channel,
                                                          .version = arguments.release.version,
                                                          .because = arguments.because,
                                                          .after_restore = arguments.after_restore},
                                                         root, state, *signer, *uploader, clock));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<std::string> nodes, NodesRunning(arguments.release));
  if (session.json()) {
    const Json value = {{"channel", arguments.release.channel},    {"version", arguments.release.version},
                        {"targets_version", versions.targets},     {"snapshot_version", versions.snapshot},
                        {"timestamp_version", versions.timestamp}, {"running_nodes", nodes}};
    std::printf("%s\n", value.dump(2).c_str());
    return OkStatus();
  }
  std::printf("withdrawn %s %s\n  metadata targets %u, snapshot %u, timestamp %u\n",
              arguments.release.channel.c_str(), arguments.release.version.c_str(), versions.targets,
              versions.snapshot, versions.timestamp);
  PrintNodes(nodes);
  return OkStatus();
}

Json ToJson(const std::vector<Change>& changes) {
  Json list = Json::array();
  for (const Change& change : changes) {
    Json entry = {{"name", change.name}};
    entry["before"] = change.before.empty() ? Json() : Json(change.before);
    entry["after"] = change.after.empty() ? Json() : Json(change.after);
    list.push_back(entry);
  }
  return list;
}

void Print(const char* title, const std::vector<Change>& changes) {
  if (changes.empty()) return;
  std::printf("%s\n", title);
  for (const Change& change : changes) {
    if (change.before.empty()) {
      std::printf("  + %s %s\n", change.name.c_str(), change.after.c_str());
    } else if (change.after.empty()) {
      std::printf("  - %s %s\n", change.name.c_str(), change.before.c_str());
    } else {
      std::printf("  ~ %s\n      %s\n      %s\n", change.name.c_str(), change.before.c_str(),
                  change.after.c_str());
    }
  }
}

Status Diff(const DiffArguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseDiff diff, DiffReleases(arguments.a, arguments.b));
  if (session.json()) {
    const Json value = {{"a", diff.version_a},
                        {"b", diff.version_b},
                        {"settings", ToJson(diff.settings)},
                        {"packages", ToJson(diff.packages)},
                        {"files", ToJson(diff.files)},
                        {"system_files", ToJson(diff.system_files)},
                        {"sections", ToJson(diff.sections)},
                        {"measurements", ToJson(diff.measurements)}};
    std::printf("%s\n", value.dump(2).c_str());
    return OkStatus();
  }
  std::printf("%s -> %s\n", diff.version_a.c_str(), diff.version_b.c_str());
  Print("settings", diff.settings);
  Print("packages", diff.packages);
  Print("files of the release", diff.files);
  Print("files of the system", diff.system_files);
  Print("sections of the image (the kernel is .linux)", diff.sections);
  Print("measurements", diff.measurements);
  return OkStatus();
}

void AddNamedRelease(CLI::App& verb, NamedRelease& release) {
  verb.add_option("VERSION", release.version, "as release list shows it")->required();
  verb.add_option("--channel", release.channel)->capture_default_str();
  verb.add_option("--profile", release.profile,
                  "connection settings (default ~/.config/sealift/profile.toml)");
}

}  // namespace

void AddReleaseLifeVerbs(CLI::App& release, Session& session) {
  const auto shown = std::make_shared<NamedRelease>();
  CLI::App* verb = AddVerb(release, session, "show", "One release: its files, its state, and who runs it",
                           "sealift release show 1.2.0 --channel stable",
                           [shown, &session] { return Show(*shown, session); });
  AddNamedRelease(*verb, *shown);

  const auto withdraw = std::make_shared<WithdrawArguments>();
  verb =
      AddVerb(release, session, "withdraw",
              "Sign that nodes may no longer take a release, ordered or not; lists who runs it",
              "sealift release withdraw 1.2.0 --because 'does not boot on r7 machines' --keys keys/ --token "
              "release='pkcs11:token=release?...'",
              [withdraw, &session] { return Withdraw(*withdraw, session); });
  AddNamedRelease(*verb, withdraw->release);
  verb->add_option("--because", withdraw->because, "why, for people; signed and shown by nodes")->required();
  verb->add_option("--keys", withdraw->keys, "the folder keys init wrote")->required();
  verb->add_option("--token", withdraw->tokens, "[GROUP=]URI of the token with the tuf-targets key")
      ->required()
      ->allow_extra_args(false);
  AddJournalOption(*verb, withdraw->journal);
  AddGenerationOption(*verb, withdraw->generations);
  verb->add_flag("--after-restore", withdraw->after_restore,
                 "the controller was restored from a backup: go beyond what was seen here before");

  const auto diff = std::make_shared<DiffArguments>();
  verb = AddVerb(
      release, session, "diff",
      "What changed between two releases, as build-uki wrote them: packages, files, kernel, command "
      "line, measurements",
      "sealift release diff out-1.2.0/ out-1.3.0/", [diff, &session] { return Diff(*diff, session); });
  verb->add_option("A", diff->a, "folder of the older release")->required();
  verb->add_option("B", diff->b, "folder of the newer one")->required();
}

}  // namespace sealift::cli
