// sealift release export|import: releases for sites that no line leads to.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "controller/cli/release_archive.h"
#include "controller/cli/release_verbs.h"
#include "controller/cli/words.h"
#include "controller/publish/release_folder.h"
#include "shared/base/files.h"

namespace sealift::cli {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string version;
  std::string channel = "stable";
  std::string place;
  std::string root;
  std::string profile;
};

bool IsTar(const fs::path& place) { return place.extension() == ".tar"; }

void ShowExport(std::uint64_t done, std::uint64_t all) { ShowProgress("export", done, all); }
void ShowImport(std::uint64_t done, std::uint64_t all) { ShowProgress("import", done, all); }

Status Export(const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string root, ReadTextFile(arguments.root, tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(const auto uploader, ConnectUploader(arguments.profile));
  const fs::path place = fs::absolute(arguments.place);
  const SystemClock clock;
  // Holds the folder that becomes a tar file.
  SEALIFT_ASSIGN_OR_RETURN(const TempDir work, TempDir::Create("sealift-export"));
  controller::ExportRequest request{.channel = arguments.channel,
                                    .version = arguments.version,
                                    .folder = IsTar(place) ? work.path() / "release" : place};
  if (!session.json()) request.progress = ShowExport;
  SEALIFT_ASSIGN_OR_RETURN(const controller::ExportedRelease exported,
                           controller::ExportRelease(request, root, *uploader, clock));
  if (IsTar(place)) SEALIFT_RETURN_IF_ERROR(PackRelease(request.folder, place));
  if (session.json()) {
    PrintJson({{"channel", exported.release.channel},
               {"version", exported.release.version},
               {"release_id", exported.release.id.hex()},
               {"targets_version", exported.targets_version},
               {"objects", exported.objects},
               {"bytes", exported.bytes},
               {"path", place.string()}});
  } else {
    Print(fmt::format(
        "exported {} {} to {}\n  release  {}\n  objects  {}, {:.1f} MiB\n  metadata targets {}\n",
        exported.release.channel, exported.release.version, place.string(), exported.release.id.hex(),
        exported.objects, static_cast<double>(exported.bytes) / (1u << 20), exported.targets_version));
  }
  return OkStatus();
}

Status Import(const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string root, ReadTextFile(arguments.root, tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(const TempDir work, TempDir::Create("sealift-import"));
  fs::path folder = arguments.place;
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    folder = work.path();
    SEALIFT_RETURN_IF_ERROR(UnpackRelease(arguments.place, folder));
  }
  // All of it is proven before the controller hears of any of it.
  SEALIFT_ASSIGN_OR_RETURN(const controller::ReleaseFolder release,
                           controller::OpenReleaseFolder(folder, root));
  SEALIFT_ASSIGN_OR_RETURN(const auto uploader, ConnectUploader(arguments.profile));
  SEALIFT_ASSIGN_OR_RETURN(
      const controller::ImportedRelease imported,
      controller::ImportReleaseFolder(
          release, *uploader,
          session.json() ? std::function<void(std::uint64_t, std::uint64_t)>() : ShowImport));
  if (session.json()) {
    PrintJson({{"channel", release.release().channel},
               {"version", release.release().version},
               {"release_id", release.release().id.hex()},
               {"objects_stored", imported.upload.stored},
               {"objects_known", imported.upload.known},
               {"targets_version", imported.versions.targets},
               {"snapshot_version", imported.versions.snapshot},
               {"timestamp_version", imported.versions.timestamp}});
  } else {
    Print(fmt::format(
        "imported {} {}\n  release  {}\n  objects  {} new, {} known, {:.1f} MiB\n"
        "  metadata targets {}, snapshot {}, timestamp {}\n",
        release.release().channel, release.release().version, release.release().id.hex(),
        imported.upload.stored, imported.upload.known, static_cast<double>(release.bytes()) / (1u << 20),
        imported.versions.targets, imported.versions.snapshot, imported.versions.timestamp));
  }
  return OkStatus();
}

void AddCommon(CLI::App& verb, Arguments& arguments) {
  verb.add_option("--root", arguments.root,
                  "the TUF root this side trusts: tuf/1.root.json of the folder keys init wrote")
      ->required();
  verb.add_option("--profile", arguments.profile,
                  "connection settings (default ~/.config/sealift/profile.toml)");
}

}  // namespace

void AddReleaseTransferVerbs(CLI::App& release, Session& session) {
  const auto out = std::make_shared<Arguments>();
  CLI::App* verb = AddVerb(release, session, "export",
                           "Write a published release with its signed metadata to a folder, or a file *.tar",
                           "sealift release export 1.2.0 /media/usb/1.2.0.tar --root keys/tuf/1.root.json",
                           [out, &session] { return Export(*out, session); });
  verb->add_option("VERSION", out->version, "as release list shows it")->required();
  verb->add_option("OUT", out->place, "a new folder, or a file that ends with .tar")->required();
  verb->add_option("--channel", out->channel)->capture_default_str();
  AddCommon(*verb, *out);

  const auto in = std::make_shared<Arguments>();
  verb =
      AddVerb(release, session, "import",
              "Bring an exported release to a controller of the same set of keys; all of it is proven first",
              "sealift release import /media/usb/1.2.0.tar --root keys/tuf/1.root.json",
              [in, &session] { return Import(*in, session); });
  verb->add_option("IN", in->place, "what export wrote")->required();
  AddCommon(*verb, *in);
}

}  // namespace sealift::cli
