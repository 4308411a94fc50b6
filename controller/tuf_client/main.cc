// sealift-tuf: a TUF client over HTTP. Exit code 0: it succeeded; 1: anything else, with the reason on
// stderr.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "controller/tuf_client/repository.h"
#include "shared/base/files.h"
#include "shared/base/log.h"

namespace sealift::tuf_client {
namespace {

struct Arguments {
  std::string metadata_dir;
  std::string metadata_url;
  std::string root;
  std::string target_name;
  std::string target_base_url;
  std::string target_dir;
  HttpLimits limits;
};

Status Init(const Arguments& arguments) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments.root, tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope envelope, tuf::ParseEnvelope(text, tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Root root, tuf::ParseRoot(envelope));
  SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(envelope, root, tuf::Role::kRoot));
  return NewestRootStore(arguments.metadata_dir).Store("root.json", text);
}

// What refresh and download share. Members in the order in which they need each other.
class Client {
 public:
  static Result<std::string> TrustedRoot(const Arguments& arguments) {
    NewestRootStore store(arguments.metadata_dir);
    SEALIFT_ASSIGN_OR_RETURN(const std::optional<std::string> root, store.Load("root.json"));
    if (root.has_value()) return *root;
    return MakeError(Code::kFailedPrecondition, Reason::kFileUnreadable,
                     "open '" + arguments.metadata_dir + "': no trusted root is there, run init first");
  }
  Client(const Arguments& arguments, std::string root)
      : http(arguments.limits),
        source_(arguments.metadata_url, http),
        store_(arguments.metadata_dir),
        tuf(std::move(root), source_, store_, clock_) {}

  HttpReader http;

 private:
  HttpMetadataSource source_;
  NewestRootStore store_;
  SystemClock clock_;

 public:
  tuf::TufClient tuf;
};

Status Refresh(const Arguments& arguments) {
  SEALIFT_ASSIGN_OR_RETURN(std::string root, Client::TrustedRoot(arguments));
  return Client(arguments, std::move(root)).tuf.Refresh().status();
}

Status Download(const Arguments& arguments) {
  SEALIFT_ASSIGN_OR_RETURN(std::string root, Client::TrustedRoot(arguments));
  Client client(arguments, std::move(root));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::FoundTarget found, client.tuf.Find(arguments.target_name));
  return DownloadTarget(client.http, arguments.target_base_url, arguments.target_name, found,
                        arguments.target_dir);
}

int Run(int argc, char** argv) {
  CLI::App app{"Fetches and verifies files of a TUF repository over HTTP", "sealift-tuf"};
  app.set_version_flag("--version", std::string("sealift-tuf ") + SEALIFT_VERSION);
  app.footer(
      "Examples:\n"
      "  sealift-tuf --metadata-dir trusted init 1.root.json\n"
      "  sealift-tuf --metadata-dir trusted --metadata-url http://mirror/metadata refresh\n"
      "  sealift-tuf --metadata-dir trusted --metadata-url http://mirror/metadata \\\n"
      "      --target-name stable/1.2.0/manifest.json --target-base-url http://mirror/targets \\\n"
      "      --target-dir files download\n"
      "Exit code 0: done and verified; 1: not, the reason is on standard error.");
  app.require_subcommand(1);
  app.fallthrough();
  Arguments arguments;
  app.add_option("--metadata-dir", arguments.metadata_dir, "folder of the trusted metadata")->required();
  app.add_option("--metadata-url", arguments.metadata_url, "where the repository's metadata is");
  app.add_option("--target-name", arguments.target_name, "path of the target in the metadata");
  app.add_option("--target-base-url", arguments.target_base_url, "where the repository's targets are");
  app.add_option("--target-dir", arguments.target_dir, "folder for verified targets");
  app.add_option("--minimum-rate", arguments.limits.minimum_bytes_per_second,
                 "bytes per second below which a transfer is given up")
      ->capture_default_str();
  app.add_option("--stall-seconds", arguments.limits.stall_seconds, "after how long it is")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  Status status;
  CLI::App* const init = app.add_subcommand("init", "trust a root file; asks no repository");
  init->add_option("ROOT", arguments.root, "root metadata obtained in a trusted way")->required();
  init->callback([&] { status = Init(arguments); });
  const auto needs = [&app](const std::vector<std::string>& options) {
    for (const std::string& option : options) {
      if (app.count(option) == 0) throw CLI::RequiredError(option);
    }
  };
  app.add_subcommand("refresh", "bring the trusted metadata up to date")->callback([&] {
    needs({"--metadata-url"});
    status = Refresh(arguments);
  });
  app.add_subcommand("download", "refresh, then fetch and verify a target")->callback([&] {
    needs({"--metadata-url", "--target-name", "--target-base-url", "--target-dir"});
    status = Download(arguments);
  });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 1;
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "sealift-tuf: %s\n", Describe(status).c_str());
  return 1;
}

}  // namespace
}  // namespace sealift::tuf_client

int main(int argc, char** argv) { return sealift::tuf_client::Run(argc, argv); }
