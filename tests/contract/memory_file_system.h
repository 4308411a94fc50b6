// The ESP in memory, with what a real one does to careless writers: it runs full, fails at a chosen step, and
// forgets what was not synced when the power is cut. Two names of one file, as a rename that was cut leaves
// them on FAT, share its bytes: what becomes of one spoils the other.
//
// Compares names like FAT (without regard to case, keeping it). Single-threaded. Passes
// file_system_contract.h.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "node-agent/esp/file_system.h"

namespace sealift::agent {

// What is left of changes that were not made durable.
enum class CutMode {
  // Nothing: neither names nor bytes.
  kDropUnsynced,
  // Names arrived, bytes that were not synced did not: files hold what was last synced, else nothing. Of a
  // new
  // directory only the name is there: it cannot be listed, used or removed.
  kNamesOnly,
  // Everything arrived.
  kKeepAll,
  // Every name touched since its directory was synced is gone, the old file of that name too. FAT updates two
  // directory slots for one rename; this is worse than anything seen, and the agent must survive it.
  kTouchedNamesGone,
  // The new name of each rename arrived and the old one stayed, as two names of one chain of clusters.
  kHalfRenamed,
  // Any subset of what touched names and directories arrived; bytes that were not synced are there up to some
  // point, with garbage after it. By the seed.
  kRandom,
};
inline constexpr CutMode kAllCutModes[] = {CutMode::kDropUnsynced, CutMode::kNamesOnly,
                                           CutMode::kKeepAll,      CutMode::kTouchedNamesGone,
                                           CutMode::kHalfRenamed,  CutMode::kRandom};

class MemoryFileSystem final : public FileSystem {
 public:
  explicit MemoryFileSystem(std::uint64_t capacity_bytes = 1ull << 30) : capacity_(capacity_bytes) {
    directories_[""] = {};
    durable_directories_ = directories_;
  }

  // Steps that change something, counted from 0. A step is a Create, Write, Sync, Rename, Remove,
  // MakeDirectory or SyncDirectory.
  std::size_t steps() const { return steps_; }
  // The power goes at step `step` (from the count at this call on); a write in progress leaves half its
  // bytes.
  void CutPowerAt(std::size_t step) { cut_at_ = steps_ + step; }
  // Only this step fails, with EIO.
  void FailAt(std::size_t step) { fail_at_ = steps_ + step; }
  bool powered() const { return powered_; }
  void SetCapacity(std::uint64_t bytes) { capacity_ = bytes; }
  // Flips a bit of everything written from now on, as a broken disk does.
  void CorruptWrites(bool corrupt) { corrupt_writes_ = corrupt; }

  // The machine starts again after a cut. `seed`: of kRandom.
  void PowerOn(CutMode mode, std::uint32_t seed = 0) {
    std::mt19937 random(seed);
    const auto coin = [&] { return random() % 2 == 0; };
    std::map<std::string, Directory> directories = DirectoriesAfter(mode, random);
    std::map<std::string, Name> survived;
    std::map<std::string, Name> either = live_;
    either.insert(durable_.begin(), durable_.end());
    for (const auto& [key, name] : either) {
      const auto now = live_.find(key);
      const auto then = durable_.find(key);
      const bool same = now != live_.end() && then != durable_.end() && now->second.node == then->second.node;
      const auto arrived = Arrives(mode, same, random) ? now : live_.end();
      const auto stayed = Stays(mode, same, now != live_.end()) ? then : durable_.end();
      if (arrived != live_.end()) {
        survived[key] = arrived->second;
      } else if (stayed != durable_.end() && (mode != CutMode::kRandom || now != live_.end() || coin())) {
        survived[key] = stayed->second;
      }
    }
    // What lies in a directory that is not there is not there either.
    std::erase_if(survived, [&](const auto& item) { return !Reachable(directories, ParentOf(item.first)); });
    std::erase_if(directories, [&](const auto& item) { return !Reachable(directories, item.first); });
    for (auto& [key, name] : survived) {
      Bytes& bytes = name.node->bytes;
      if (bytes == name.node->synced || mode == CutMode::kKeepAll) continue;
      if (mode == CutMode::kRandom && coin()) {
        for (std::size_t at = random() % (bytes.size() + 1); at < bytes.size(); ++at) bytes[at] = kGarbage;
      } else {
        bytes = name.node->synced;
      }
    }
    live_ = survived;
    durable_ = survived;
    directories_ = directories;
    durable_directories_ = directories;
    for (auto& [key, name] : live_) name.node->synced = name.node->bytes;
    powered_ = true;
    cut_at_.reset();
    fail_at_.reset();
  }

  Result<std::vector<DirectoryEntry>> List(std::string_view directory) override {
    SEALIFT_RETURN_IF_ERROR(Ready(directory));
    const std::string parent = Key(directory);
    if (!directories_.contains(parent)) return Missing(directory);
    if (directories_.at(parent).lost) return Dead("list a directory: its cluster is free");
    std::vector<DirectoryEntry> entries;
    for (const auto& [key, name] : live_) {
      if (ParentOf(key) == parent) entries.push_back({.name = name.name, .size = name.node->bytes.size()});
    }
    for (const auto& [other, below] : directories_) {
      if (!other.empty() && ParentOf(other) == parent && !below.lost) {
        entries.push_back({.name = below.name, .size = 0, .is_directory = true});
      }
    }
    std::sort(entries.begin(), entries.end(),
              [](const DirectoryEntry& a, const DirectoryEntry& b) { return a.name < b.name; });
    return entries;
  }

  Status ReadPieces(std::string_view path, const std::function<Status(ByteView)>& sink) override {
    SEALIFT_RETURN_IF_ERROR(Ready(path));
    const auto found = live_.find(Key(path));
    if (found == live_.end()) return Missing(path);
    ByteView rest = found->second.node->bytes;
    while (!rest.empty()) {
      const ByteView piece = rest.first(std::min<std::size_t>(rest.size(), 4096));
      SEALIFT_RETURN_IF_ERROR(sink(piece));
      rest = rest.subspan(piece.size());
    }
    return OkStatus();
  }

  Result<std::unique_ptr<FileWriter>> Create(std::string_view path) override {
    SEALIFT_RETURN_IF_ERROR(Ready(path));
    SEALIFT_RETURN_IF_ERROR(Step());
    if (!directories_.contains(std::string(ParentOf(Key(path))))) return Missing(path);
    auto node = std::make_shared<Node>();
    if (const auto found = live_.find(Key(path)); found != live_.end()) {
      if (IsShared(found->second)) {
        Spoil(*found->second.node);
      } else {
        node = found->second.node;
        node->bytes.clear();
      }
    }
    live_[Key(path)] = {.name = LastPart(path), .node = node};
    return std::make_unique<Writer>(this, node);
  }

  Status Rename(std::string_view from, std::string_view to) override {
    SEALIFT_RETURN_IF_ERROR(Ready(from));
    SEALIFT_RETURN_IF_ERROR(Ready(to));
    SEALIFT_RETURN_IF_ERROR(Step());
    if (directories_.contains(Key(from))) return RenameDirectory(from, to);
    const auto found = live_.find(Key(from));
    if (found == live_.end() || !directories_.contains(std::string(ParentOf(Key(to))))) return Missing(from);
    const std::shared_ptr<Node> node = found->second.node;
    if (const auto replaced = live_.find(Key(to)); replaced != live_.end() && IsShared(replaced->second))
      Spoil(*replaced->second.node);
    live_.erase(found);
    live_[Key(to)] = {.name = LastPart(to), .node = node};
    return OkStatus();
  }

  Status Remove(std::string_view path) override {
    SEALIFT_RETURN_IF_ERROR(Ready(path));
    SEALIFT_RETURN_IF_ERROR(Step());
    const auto found = live_.find(Key(path));
    if (found == live_.end()) return Missing(path);
    if (IsShared(found->second)) Spoil(*found->second.node);
    live_.erase(found);
    return OkStatus();
  }

  Status RemoveDirectory(std::string_view path) override {
    SEALIFT_RETURN_IF_ERROR(Ready(path));
    SEALIFT_RETURN_IF_ERROR(Step());
    const auto inside = [key = Key(path)](const auto& item) { return ParentOf(item.first) == key; };
    if (!directories_.contains(Key(path)) || path.empty()) return Missing(path);
    if (std::any_of(live_.begin(), live_.end(), inside) ||
        std::any_of(directories_.begin(), directories_.end(), inside)) {
      return MakeError(Code::kUnavailable, Reason::kEspIo, fmt::format("remove '{}': not empty", path));
    }
    if (directories_.at(Key(path)).lost) return Dead("remove a directory: its cluster is free");
    // Another name leads to the same cluster, which is free now.
    for (auto& [other, directory] : directories_)
      directory.lost = directory.lost || directory.id == directories_.at(Key(path)).id;
    directories_.erase(Key(path));
    return OkStatus();
  }

  Status MakeDirectory(std::string_view path) override {
    SEALIFT_RETURN_IF_ERROR(Ready(path));
    SEALIFT_RETURN_IF_ERROR(Step());
    for (std::string_view part = path; !part.empty(); part = ParentOf(part)) {
      const auto [made, fresh] = directories_.try_emplace(Key(part), Directory{LastPart(part), next_id_});
      next_id_ += fresh ? 1 : 0;
      if (made->second.lost) return Dead("make a directory: one of that name has lost its cluster");
    }
    return OkStatus();
  }

  Status SyncDirectory(std::string_view path) override {
    SEALIFT_RETURN_IF_ERROR(Ready(path));
    SEALIFT_RETURN_IF_ERROR(Step());
    const std::string parent = Key(path);
    if (!directories_.contains(parent)) return Missing(path);
    std::erase_if(durable_, [&](const auto& item) { return ParentOf(item.first) == parent; });
    for (const auto& [key, name] : live_) {
      if (ParentOf(key) == parent) durable_[key] = name;
    }
    const auto below = [&](const auto& item) {
      return !item.first.empty() && ParentOf(item.first) == parent;
    };
    std::erase_if(durable_directories_, below);
    for (const auto& item : directories_) {
      if (below(item)) durable_directories_.insert(item);
    }
    return OkStatus();
  }

  Result<std::uint64_t> FreeBytes() override {
    SEALIFT_RETURN_IF_ERROR(Ready(""));
    const std::uint64_t used = UsedBytes();
    return used >= capacity_ ? 0 : capacity_ - used;
  }

 private:
  struct Node {
    Bytes bytes;
    Bytes synced;
  };
  struct Name {
    std::string name;
    std::shared_ptr<Node> node;
  };
  struct Directory {
    std::string name;
    // Of its cluster: a rename that was cut leaves two names with one.
    std::uint64_t id = 0;
    bool lost = false;
  };

  class Writer final : public FileWriter {
   public:
    Writer(MemoryFileSystem* owner, std::shared_ptr<Node> node) : owner_(owner), node_(std::move(node)) {}
    Status Write(ByteView bytes) override {
      const Status step = owner_->Step();
      if (!step.ok()) {
        Append(node_->bytes, bytes.first(bytes.size() / 2));
        return step;
      }
      const std::uint64_t used = owner_->UsedBytes();
      const std::uint64_t room = used >= owner_->capacity_ ? 0 : owner_->capacity_ - used;
      if (bytes.size() > room) {
        Append(node_->bytes, bytes.first(static_cast<std::size_t>(room)));
        return MakeError(Code::kResourceExhausted, Reason::kEspFull, "write on the ESP: no space left");
      }
      Append(node_->bytes, bytes);
      if (owner_->corrupt_writes_ && !bytes.empty()) node_->bytes.back() ^= 1;
      return OkStatus();
    }
    Status Sync() override {
      SEALIFT_RETURN_IF_ERROR(owner_->Step());
      node_->synced = node_->bytes;
      return OkStatus();
    }

   private:
    MemoryFileSystem* owner_;
    std::shared_ptr<Node> node_;
  };

  static constexpr std::uint8_t kGarbage = 0xdb;

  // Whether the change to a name is there after the cut.
  static bool Arrives(CutMode mode, bool same, std::mt19937& random) {
    switch (mode) {
      case CutMode::kDropUnsynced:
      case CutMode::kTouchedNamesGone:
        return same;
      case CutMode::kNamesOnly:
      case CutMode::kKeepAll:
      case CutMode::kHalfRenamed:
        return true;
      case CutMode::kRandom:
        return same || random() % 2 == 0;
    }
    return true;
  }
  // Whether a name that was durable, and has no newer state that arrived, is there after the cut.
  static bool Stays(CutMode mode, bool same, bool replaced) {
    switch (mode) {
      case CutMode::kDropUnsynced:
      case CutMode::kRandom:
        return true;
      case CutMode::kHalfRenamed:
        return !replaced;
      case CutMode::kTouchedNamesGone:
        return same;
      case CutMode::kNamesOnly:
      case CutMode::kKeepAll:
        return false;
    }
    return true;
  }
  static bool Reachable(const std::map<std::string, Directory>& directories, std::string_view directory) {
    for (; !directory.empty(); directory = ParentOf(directory)) {
      if (!directories.contains(std::string(directory))) return false;
    }
    return true;
  }
  std::map<std::string, Directory> DirectoriesAfter(CutMode mode, std::mt19937& random) const {
    std::map<std::string, Directory> after = durable_directories_;
    if (mode == CutMode::kKeepAll || mode == CutMode::kNamesOnly) after = directories_;
    if (mode == CutMode::kRandom || mode == CutMode::kHalfRenamed)
      after.insert(directories_.begin(), directories_.end());
    std::erase_if(after, [&](const auto& item) {
      const bool touched = directories_.contains(item.first) != durable_directories_.contains(item.first);
      return touched &&
             (mode == CutMode::kTouchedNamesGone || (mode == CutMode::kRandom && random() % 2 == 0));
    });
    if (mode == CutMode::kKeepAll) return after;
    for (auto& [key, directory] : after) {
      directory.lost = directory.lost || std::ranges::none_of(durable_directories_, [&](const auto& item) {
                         return item.second.id == directory.id;
                       });
    }
    return after;
  }
  // Empty ones only: nobody needs more.
  Status RenameDirectory(std::string_view from, std::string_view to) {
    const auto found = directories_.find(Key(from));
    const bool taken = directories_.contains(Key(to)) || live_.contains(Key(to));
    const bool used =
        std::ranges::any_of(live_, [&](const auto& item) { return ParentOf(item.first) == Key(from); });
    if (found->second.lost || taken || used) return Dead("rename a directory: input/output error");
    if (!directories_.contains(std::string(ParentOf(Key(to))))) return Missing(to);
    directories_[Key(to)] = {.name = LastPart(to), .id = found->second.id};
    directories_.erase(Key(from));
    return OkStatus();
  }
  // Another name leads to the same bytes.
  bool IsShared(const Name& name) const {
    return std::count_if(live_.begin(), live_.end(),
                         [&](const auto& item) { return item.second.node == name.node; }) > 1;
  }
  // The clusters are free for others now.
  static void Spoil(Node& node) {
    std::fill(node.bytes.begin(), node.bytes.end(), kGarbage);
    node.synced = node.bytes;
  }
  static std::string Key(std::string_view path) {
    std::string key(path);
    std::transform(key.begin(), key.end(), key.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    return key;
  }
  static std::string LastPart(std::string_view path) {
    const std::size_t slash = path.rfind('/');
    return std::string(slash == std::string_view::npos ? path : path.substr(slash + 1));
  }
  static Status Missing(std::string_view path) {
    return MakeError(Code::kNotFound, Reason::kFileUnreadable, fmt::format("find '{}': no such file", path));
  }
  static Status Dead(std::string_view why) {
    return MakeError(Code::kUnavailable, Reason::kEspIo, std::string(why));
  }

  Status Ready(std::string_view path) const {
    if (!powered_) return Dead("use the ESP: the power is off");
    return CheckPath(path);
  }
  Status Step() {
    if (!powered_) return Dead("use the ESP: the power is off");
    const std::size_t step = steps_++;
    if (cut_at_ == step) {
      powered_ = false;
      return Dead("use the ESP: the power went off");
    }
    if (fail_at_ == step) return Dead("use the ESP: input/output error");
    return OkStatus();
  }
  std::uint64_t UsedBytes() const {
    std::uint64_t used = 0;
    for (const auto& [key, name] : live_) used += name.node->bytes.size();
    return used;
  }

  std::uint64_t capacity_;
  std::map<std::string, Name> live_;
  std::map<std::string, Name> durable_;
  // By key.
  std::map<std::string, Directory> directories_;
  std::map<std::string, Directory> durable_directories_;
  std::uint64_t next_id_ = 1;
  std::size_t steps_ = 0;
  std::optional<std::size_t> cut_at_;
  std::optional<std::size_t> fail_at_;
  bool powered_ = true;
  bool corrupt_writes_ = false;
};

}  // namespace sealift::agent
