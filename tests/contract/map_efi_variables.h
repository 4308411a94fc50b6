// EFI variables in a map, for tests.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "node-agent/esp/efi_variables.h"

namespace sealift::agent {

class MapEfiVariables : public EfiVariables {
 public:
  Result<std::optional<Bytes>> Read(std::string_view name, std::string_view vendor) override {
    if (unreadable_) {
      return MakeError(Code::kUnavailable, Reason::kFirmwareVariableUnreadable,
                       "read EFI variable: input/output error");
    }
    const auto found = values_.find({std::string(name), std::string(vendor)});
    if (found == values_.end()) return std::optional<Bytes>();
    return std::optional<Bytes>(found->second);
  }

  // Refuses as firmware does where `refuse_writes` was said.
  Status Write(std::string_view name, std::string_view vendor, std::uint32_t attributes,
               ByteView value) override {
    if (refused_.contains(std::string(name))) {
      return MakeError(Code::kFailedPrecondition, Reason::kFirmwareRefused,
                       "write EFI variable " + std::string(name) + ": refused");
    }
    writes_.emplace_back(name);
    attributes_[{std::string(name), std::string(vendor)}] = attributes;
    Set(name, vendor, ToBytes(value));
    return OkStatus();
  }
  Status Remove(std::string_view name, std::string_view vendor) override {
    values_.erase({std::string(name), std::string(vendor)});
    return OkStatus();
  }

  void RefuseWrites(std::string name) { refused_.insert(std::move(name)); }
  // Names in the order they were written.
  const std::vector<std::string>& writes() const { return writes_; }
  std::uint32_t AttributesOf(std::string_view name, std::string_view vendor) const {
    const auto found = attributes_.find({std::string(name), std::string(vendor)});
    return found == attributes_.end() ? 0 : found->second;
  }

  void Set(std::string_view name, std::string_view vendor, Bytes value) {
    values_[{std::string(name), std::string(vendor)}] = std::move(value);
  }
  // With the terminator that boot loaders write.
  void SetText(std::string_view name, std::string_view vendor, std::string_view text) {
    Bytes value = Utf16Le(text);
    value.insert(value.end(), 2, 0);
    Set(name, vendor, std::move(value));
  }
  void SetUnreadable(bool unreadable) { unreadable_ = unreadable; }

 private:
  std::map<std::pair<std::string, std::string>, Bytes> values_;
  std::map<std::pair<std::string, std::string>, std::uint32_t> attributes_;
  std::set<std::string> refused_;
  std::vector<std::string> writes_;
  bool unreadable_ = false;
};

}  // namespace sealift::agent
