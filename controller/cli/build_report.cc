#include "controller/cli/build_report.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "controller/buildhost/build_job.h"
#include "shared/base/bytes.h"

namespace sealift::cli {
namespace {

using controller::SeverityName;
using nlohmann::json;

json FindingsJson(const std::vector<build::Finding>& findings) {
  json list = json::array();
  for (const build::Finding& finding : findings)
    list.push_back({{"name", finding.name}, {"severity", SeverityName(finding)}, {"text", finding.text}});
  return list;
}

void PrintFindings(const std::vector<build::Finding>& findings, std::FILE* to) {
  for (const build::Finding& finding : findings)
    fmt::print(to, "{:<8} {}: {}\n", SeverityName(finding), finding.name, finding.text);
}

void PrintJson(const ShownBuild& shown, const std::string& manifest) {
  const build::BuiltRelease& built = shown.built;
  json result = {{"type", shown.type},
                 {"out", shown.path},
                 {"release", ReleaseIdOf(manifest).hex()},
                 {"manifest", json::parse(manifest)},
                 {"initrd_bytes", built.initrd_bytes},
                 {"unpacked_bytes", built.unpacked_bytes},
                 {"frames", built.frames},
                 {"packages", built.packages},
                 {"findings", FindingsJson(built.findings)},
                 {"remarks", built.remarks}};
  if (!shown.build_id.empty()) result["build"] = shown.build_id;
  if (shown.published.has_value()) {
    result["published"] = {{"channel", shown.published->channel()},
                           {"release_id", HexEncode(AsBytes(shown.published->release_id()))},
                           {"targets_version", shown.published->targets_version()},
                           {"snapshot_version", shown.published->snapshot_version()},
                           {"timestamp_version", shown.published->timestamp_version()}};
  }
  std::printf("%s\n", result.dump(2).c_str());
}

}  // namespace

void PrintBuild(const Session& session, const ShownBuild& shown) {
  const build::BuiltRelease& built = shown.built;
  const std::string manifest = SerializeManifest(built.manifest);
  if (session.json()) return PrintJson(shown, manifest);
  PrintFindings(built.findings, stderr);
  for (const std::string& remark : built.remarks) std::fprintf(stderr, "note: %s\n", remark.c_str());
  fmt::print("release {} as {} in {}\n", built.manifest.version, shown.type, shown.path);
  for (const ReleaseFile& file : built.manifest.files)
    fmt::print("  {:<30} {:>12} bytes  {}\n", file.path, file.size, file.digest.hex().substr(0, 16));
  fmt::print("  initrd: {} MiB unpacked, {} MiB in {} frames; systemd-stub {}\n", built.unpacked_bytes >> 20,
             built.initrd_bytes >> 20, built.frames, built.manifest.stub_version);
  for (const PhasePrediction& phase : built.manifest.pcr11)
    fmt::print("  PCR 11 {:<14} {}\n", phase.phase.empty() ? "(boot)" : phase.phase, phase.pcr11.hex());
  if (!shown.build_id.empty()) fmt::print("  build {}\n", shown.build_id);
  if (shown.published.has_value()) {
    fmt::print("  published in {} as {}\n", shown.published->channel(),
               HexEncode(AsBytes(shown.published->release_id())));
  }
}

void PrintPreflight(Session& session, const std::vector<build::Finding>& findings) {
  const bool good = controller::MayBeBuilt(findings);
  if (session.json()) {
    std::printf("%s\n", json{{"passed", good}, {"findings", FindingsJson(findings)}}.dump(2).c_str());
  } else {
    PrintFindings(findings, stdout);
    fmt::print("{}\n", good ? "the image may be built" : "the image may not be built");
  }
  if (!good) session.exit_code = 1;
}

}  // namespace sealift::cli
