#include "controller/build/fat_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "shared/base/bytes.h"

namespace sealift::build {
namespace {

constexpr std::size_t kMaxNameUnits = 255;
constexpr std::size_t kMaxPath = 1024;
constexpr std::string_view kForbidden = "\"*:<>?\\|";

Status Clash(std::string_view what, std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kFileNameClash, fmt::format("take {}: {}", what, why));
}

// Why FAT cannot hold the name; empty when it can.
std::string_view Problem(std::string_view name) {
  const auto odd = [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f || kForbidden.find(c) != std::string_view::npos;
  };
  if (name.empty()) return "it has an empty part";
  if (std::any_of(name.begin(), name.end(), odd))
    return "FAT allows no control characters and none of \"*:<>?\\|";
  if (name.back() == '.' || name.back() == ' ') return "FAT drops a dot or a space at the end of a name";
  const Bytes wide = Utf16Le(name);
  if (Utf8FromUtf16Le(wide) != name) return "it is not UTF-8";
  if (wide.size() / 2 > kMaxNameUnits) return "a part of it is longer than 255 characters";
  return {};
}

std::string Folded(std::string_view name) {
  std::string folded(name);
  for (char& c : folded)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return folded;
}

}  // namespace

Status CheckFatNames(const std::vector<std::string>& paths, std::string_view what) {
  // Folded path of a file or folder -> as it is spelt.
  std::map<std::string, std::string> seen;
  for (const std::string& path : paths) {
    if (path.size() > kMaxPath) return Clash(what, fmt::format("'{}...' is too long", path.substr(0, 80)));
    std::size_t at = 0;
    while (at <= path.size()) {
      const std::size_t slash = std::min(path.find('/', at), path.size());
      const std::string_view problem = Problem(std::string_view(path).substr(at, slash - at));
      if (!problem.empty()) return Clash(what, fmt::format("file '{}': {}", path, problem));
      const std::string upto = path.substr(0, slash);
      const auto [known, fresh] = seen.emplace(Folded(upto), upto);
      const bool same_file = !fresh && slash == path.size();
      if (same_file || known->second != upto)
        return Clash(what, fmt::format("'{}' and '{}' are one name to FAT", known->second, upto));
      at = slash + 1;
    }
  }
  return OkStatus();
}

}  // namespace sealift::build
