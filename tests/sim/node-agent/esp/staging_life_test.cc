// An upgrade's whole life on the ESP (image, extensions, boot loader, entries, trial, recovery, cleaning up)
// with the power going at every single operation, under every idea of what a disk forgets, and going once
// more while the machine recovers. Whatever is left boots, and ends where an uncut life ends.
//
// What cannot fail proves nothing: the same lives on file systems that break the order of writes have to be
// caught.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <set>

#include "node-agent/esp/boot_options.h"
#include "node-agent/esp/esp_stager.h"
#include "shared/base/ids.h"
#include "tests/support/synthetic_pe.h"
#include "tests/unit/node-agent/esp/esp_fixture.h"

namespace sealift::agent {
namespace {

const std::map<std::string, std::string> kExtensions = {{"tools.raw", "the tools"},
                                                        {"debug.raw", "a debugger"}};
constexpr std::string_view kTarget = "2.0";
constexpr int kSeeds = 5;

Bytes Loader(const std::string& version) {
  test::SyntheticPe pe;
  pe.sections = {{".text", "code"},
                 {".sdmagic", fmt::format("#### LoaderInfo: systemd-boot {} ####", version)}};
  return pe.Build();
}
const Bytes& OldLoader() {
  static const Bytes loader = Loader("252.39-1");
  return loader;
}
const Bytes& NewLoader() {
  static const Bytes loader = Loader("252.40-1");
  return loader;
}

// A file system that keeps the promises of another one, or breaks one of them.
class Broken final : public FileSystem {
 public:
  enum class Promise { kNone, kFileSync, kDirectorySync, kOrder };
  Broken(MemoryFileSystem& inner, Promise promise) : inner_(inner), promise_(promise) {}

  Result<std::vector<DirectoryEntry>> List(std::string_view directory) override {
    return inner_.List(directory);
  }
  Status ReadPieces(std::string_view path, const std::function<Status(ByteView)>& sink) override {
    return inner_.ReadPieces(path, sink);
  }
  Result<std::unique_ptr<FileWriter>> Create(std::string_view path) override {
    SEALIFT_ASSIGN_OR_RETURN(std::unique_ptr<FileWriter> writer, inner_.Create(path));
    return std::make_unique<Writer>(*this, std::move(writer), path.starts_with(kImagesDirectory));
  }
  Status Rename(std::string_view from, std::string_view to) override { return inner_.Rename(from, to); }
  Status Remove(std::string_view path) override { return inner_.Remove(path); }
  Status RemoveDirectory(std::string_view path) override { return inner_.RemoveDirectory(path); }
  Status MakeDirectory(std::string_view path) override { return inner_.MakeDirectory(path); }
  Status SyncDirectory(std::string_view path) override {
    if (promise_ == Promise::kDirectorySync) return OkStatus();
    if (promise_ == Promise::kOrder && path.starts_with(kImagesDirectory)) return OkStatus();
    SEALIFT_RETURN_IF_ERROR(inner_.SyncDirectory(path));
    if (promise_ != Promise::kOrder || path != kEntriesDirectory) return OkStatus();
    // Only now, after the entry was flipped.
    for (const auto& writer : late_) SEALIFT_RETURN_IF_ERROR(writer->Sync());
    late_.clear();
    return inner_.SyncDirectory(kImagesDirectory);
  }
  Result<std::uint64_t> FreeBytes() override { return inner_.FreeBytes(); }

 private:
  class Writer final : public FileWriter {
   public:
    Writer(Broken& owner, std::shared_ptr<FileWriter> inner, bool image)
        : owner_(owner), inner_(std::move(inner)), image_(image) {}
    Status Write(ByteView bytes) override { return inner_->Write(bytes); }
    Status Sync() override {
      if (owner_.promise_ == Promise::kFileSync) return OkStatus();
      if (owner_.promise_ != Promise::kOrder || !image_) return inner_->Sync();
      owner_.late_.push_back(inner_);
      return OkStatus();
    }

   private:
    Broken& owner_;
    std::shared_ptr<FileWriter> inner_;
    bool image_;
  };

  MemoryFileSystem& inner_;
  Promise promise_;
  std::vector<std::shared_ptr<FileWriter>> late_;
};

struct Start {
  const char* name;
  void (*prepare)(EspNode&);
};
constexpr Start kStarts[] = {
    {"active", [](EspNode&) {}},
    {"passive",
     [](EspNode& node) {
       node.PutImage("1.9");
       node.PutEntry("active+0-3.conf", BootRole::kActive, "1.9");
       node.PutEntry("passive.conf", BootRole::kPassive, "1.0");
       EXPECT_TRUE(node.fs.Remove("loader/entries/active.conf").ok());
       EXPECT_TRUE(node.fs.SyncDirectory("loader/entries").ok());
     }},
    {"with garbage",
     [](EspNode& node) {
       node.PutImage("0.1");
       node.PutEntry("active+1-2.conf", BootRole::kActive, "0.9");
     }},
    {"no room",
     [](EspNode& node) {
       node.PutImage("0.5");
       node.PutEntry("passive.conf", BootRole::kPassive, "0.5");
       const std::uint64_t image = ImageBytes("2.0").size();
       node.fs.SetCapacity(3 * image + image / 2 + (1u << 20) + 4000);
     }},
};

class Life {
 public:
  Life(const Start& start, Broken::Promise broken) : fs_(node_.fs, broken) {
    EXPECT_TRUE(node_.fs.MakeDurableDirectory("EFI/BOOT").ok());
    EXPECT_TRUE(node_.fs.MakeDurableDirectory("EFI/systemd").ok());
    node_.PutFile(kFallbackLoader, OldLoader());
    node_.PutFile(kNamedLoader, OldLoader());
    start.prepare(node_);
    before_ = node_.fs.steps();
  }

  MemoryFileSystem& fs() { return node_.fs; }
  std::size_t steps() const { return node_.fs.steps() - before_; }

  // Boots and lets the agent act, until there is nothing more to do or the power goes. Why not, if so.
  std::string Live() {
    for (int boot = 0; boot < 6 && node_.fs.powered(); ++boot) {
      if (const std::string why = Boot(); !why.empty() || !node_.fs.powered()) return why;
      const Status status = Act();
      if (!node_.fs.powered()) return "";
      if (!status.ok()) return Describe(status);
      if (done_) return CheckEnd();
    }
    return node_.fs.powered() ? "never comes to an end" : "";
  }

  // What a machine that is switched on finds.
  std::string CheckBoots(CutMode mode) {
    auto disk = LoadBootEntries(node_.fs);
    if (!disk.ok()) return Describe(disk.status());
    const RoleEntry* choice = Choice(*disk);
    if (choice == nullptr || choice->exhausted()) return "nothing to boot";
    if (const std::string why = Incomplete(*choice); !why.empty()) return why;
    const bool proven = std::ranges::any_of(disk->entries, [&](const RoleEntry& entry) {
      return entry.role != BootRole::kUnknown && !entry.on_trial() && Incomplete(entry).empty();
    });
    if (!proven) return "no whole entry without a trial";
    const bool fallback = IsLoader(kFallbackLoader);
    if (!fallback && !IsLoader(kNamedLoader)) return "no boot loader is whole";
    // A rename over a file leaves one of the two, but where the model loses every name that was touched.
    if (!fallback && mode != CutMode::kTouchedNamesGone)
      return "the boot loader that firmware finds is not whole";
    return "";
  }

 private:
  static const RoleEntry* Choice(const BootEntries& disk) {
    const RoleEntry* best = nullptr;
    const auto rank = [](const RoleEntry& of) {
      return std::pair(of.exhausted(), static_cast<int>(of.role));
    };
    for (const RoleEntry& entry : disk.entries) {
      if (entry.role == BootRole::kUnknown) continue;
      if (best == nullptr || rank(entry) < rank(*best) ||
          (rank(entry) == rank(*best) && CompareVersions(entry.version, best->version) > 0))
        best = &entry;
    }
    return best;
  }

  bool IsLoader(std::string_view path) {
    const Bytes there = node_.fs.Read(path, 1u << 20).value_or(Bytes());
    return there == OldLoader() || there == NewLoader();
  }

  std::string Incomplete(const RoleEntry& entry) {
    const auto measured = node_.fs.Measure(RelativePath(entry.image_path));
    if (!measured.ok()) return fmt::format("{} names a missing image", entry.file_name);
    if (measured->digest != Sha256(ImageBytes(entry.version)))
      return fmt::format("{} names a broken image", entry.file_name);
    std::map<std::string, std::string> beside;
    const std::string folder = fmt::format("{}{}", RelativePath(entry.image_path), kCompanionSuffix);
    const auto files = node_.fs.List(folder);
    for (std::size_t i = 0; files.ok() && i < files->size(); ++i) {
      const std::string& name = (*files)[i].name;
      if (!name.ends_with(kTemporarySuffix))
        beside[name] = ToText(node_.fs.Read(folder + "/" + name, 1u << 20).value_or(Bytes()));
    }
    const auto wanted = entry.version == kTarget ? kExtensions : std::map<std::string, std::string>();
    return beside == wanted ? "" : fmt::format("{}: its extensions are not whole", entry.file_name);
  }

  std::string Boot() {
    auto disk = LoadBootEntries(node_.fs);
    if (!disk.ok()) return Describe(disk.status());
    const RoleEntry* choice = Choice(*disk);
    if (choice == nullptr) return "nothing to boot";
    const RoleEntry entry = *choice;
    if (entry.tries_left && *entry.tries_left > 0) {
      const std::string counted =
          fmt::format("active+{}-{}.conf", *entry.tries_left - 1, entry.tries_done + 1);
      (void)node_.fs.Rename(EntryPath(entry.file_name), EntryPath(counted));
      (void)node_.fs.SyncDirectory(kEntriesDirectory);
    }
    node_.Boot(entry.file_name, entry.version);
    return "";
  }

  Status Act() {
    EspStager stager(&fs_, &node_.variables,
                     {.running_version = node_.running_version,
                      .boot_id = node_.boot_id,
                      .runtime_directory = node_.runtime()});
    SEALIFT_ASSIGN_OR_RETURN(BootInventory now, stager.Inspect());
    if (now.running_on_trial) {
      SEALIFT_RETURN_IF_ERROR(stager.Bless());
      SEALIFT_ASSIGN_OR_RETURN(now, stager.Inspect());
    }
    if (now.running_version == kTarget) {
      if (now.running_role == BootRole::kActive) {
        SEALIFT_RETURN_IF_ERROR(stager.PointRecovery());
        done_ = true;
      }
      return stager.CollectGarbage().status();
    }
    SEALIFT_ASSIGN_OR_RETURN(const StagedImage staged,
                             stager.Stage(node_.Fetched("2.0", kExtensions, NewLoader())));
    return stager.Activate(staged, 3);
  }

  std::string CheckEnd() {
    for (const char* name : {"active.conf", "recovery.conf"}) {
      if (node_.VersionOf(name) != kTarget)
        return fmt::format("{} is of '{}' at the end", name, node_.VersionOf(name));
    }
    for (const std::string_view copy : {kNamedLoader, kFallbackLoader}) {
      if (node_.fs.Read(copy, 1u << 20).value_or(Bytes()) != NewLoader())
        return fmt::format("'{}' is old at the end", copy);
    }
    auto disk = LoadBootEntries(node_.fs);
    if (!disk.ok() || !disk->unreadable.empty()) return "an entry does not parse at the end";
    std::set<std::string> named;
    for (const RoleEntry& entry : disk->entries) {
      if (entry.on_trial() && entry.version == kTarget) return "a trial is left at the end";
      if (const std::string why = Incomplete(entry); !why.empty()) return why + " at the end";
      named.insert(LowerCase(RelativePath(entry.image_path)));
    }
    const auto files = node_.fs.List(kImagesDirectory);
    for (std::size_t i = 0; files.ok() && i < files->size(); ++i) {
      // A folder with a temporary name may have another's cluster: it stays.
      if ((*files)[i].is_directory && (*files)[i].name.ends_with(kTemporarySuffix)) continue;
      const std::string path = LowerCase(fmt::format("{}/{}", kImagesDirectory, (*files)[i].name));
      const std::string image =
          path.substr(0, path.size() - ((*files)[i].is_directory ? kCompanionSuffix.size() : 0));
      if (!named.contains(image)) return fmt::format("'{}' is left over at the end", path);
    }
    for (const std::string& name : node_.EntryNames()) {
      if (name.ends_with(kTemporarySuffix)) return fmt::format("'{}' is left over at the end", name);
    }
    return "";
  }

  EspNode node_;
  Broken fs_;
  std::size_t before_ = 0;
  bool done_ = false;
};

struct Outcome {
  std::size_t steps = 0;
  std::size_t cuts = 0;
  std::vector<std::string> failures;
};

Outcome CutEverywhere(const Start& start, Broken::Promise broken, bool twice) {
  Outcome outcome;
  {
    Life uncut(start, broken);
    const std::string why = uncut.Live();
    if (!why.empty()) outcome.failures.push_back(fmt::format("{}, uncut: {}", start.name, why));
    outcome.steps = uncut.steps();
  }
  for (const CutMode mode : kAllCutModes) {
    const int seeds = mode == CutMode::kRandom ? kSeeds : 1;
    for (std::size_t step = 0; step < outcome.steps; ++step) {
      for (int seed = 0; seed < seeds; ++seed) {
        const auto number = static_cast<std::uint32_t>(step * kSeeds + static_cast<std::size_t>(seed));
        Life life(start, broken);
        life.fs().CutPowerAt(step);
        std::string why = life.Live();
        for (int cut = 0; why.empty() && !life.fs().powered(); ++cut) {
          ++outcome.cuts;
          life.fs().PowerOn(mode, number + static_cast<std::uint32_t>(cut));
          why = life.CheckBoots(mode);
          if (!why.empty()) break;
          if (twice && cut == 0) life.fs().CutPowerAt((step * 7 + 3) % outcome.steps);
          why = life.Live();
        }
        if (!why.empty()) {
          outcome.failures.push_back(fmt::format("{}, mode {}, step {}, seed {}: {}", start.name,
                                                 static_cast<int>(mode), step, number, why));
        }
      }
    }
  }
  return outcome;
}

TEST(StagingLife, SurvivesACutAtEveryOperation) {
  std::size_t cuts = 0;
  for (const Start& start : kStarts) {
    for (const bool twice : {false, true}) {
      if (twice && &start != &kStarts[0]) continue;
      const Outcome outcome = CutEverywhere(start, Broken::Promise::kNone, twice);
      EXPECT_GT(outcome.steps, 40u);
      for (std::size_t i = 0; i < std::min<std::size_t>(outcome.failures.size(), 5); ++i)
        ADD_FAILURE() << outcome.failures[i];
      cuts += outcome.cuts;
    }
  }
  std::cout << cuts << " cuts\n";
  RecordProperty("cuts", static_cast<int>(cuts));
  EXPECT_GT(cuts, 2000u);
}

// Each broken promise has to be seen by some cut, and not by the way the uncut life ends.
TEST(StagingLife, CatchesEveryBrokenOrder) {
  for (const Broken::Promise broken :
       {Broken::Promise::kFileSync, Broken::Promise::kDirectorySync, Broken::Promise::kOrder}) {
    const Outcome outcome = CutEverywhere(kStarts[0], broken, false);
    EXPECT_GT(outcome.cuts, 100u);
    EXPECT_FALSE(outcome.failures.empty())
        << "broken promise " << static_cast<int>(broken) << " is not caught";
    const bool only_cut = std::ranges::none_of(outcome.failures, [](const std::string& failure) {
      return failure.find("uncut") != std::string::npos;
    });
    EXPECT_TRUE(only_cut);
    std::cout << "broken promise " << static_cast<int>(broken) << ": " << outcome.failures.size() << " of "
              << outcome.cuts << " cuts show it\n";
  }
}

}  // namespace
}  // namespace sealift::agent
