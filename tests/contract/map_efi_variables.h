// EFI variables in a map, for tests.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "node-agent/esp/efi_variables.h"

namespace sealift::agent {

class MapEfiVariables final : public EfiVariables {
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
  bool unreadable_ = false;
};

}  // namespace sealift::agent
