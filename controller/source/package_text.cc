#include <algorithm>
#include <array>
#include <utility>

#include "controller/source/packages.h"

namespace sealift::build {
namespace {

std::string_view TakeLine(std::string_view& rest) {
  const std::size_t end = rest.find('\n');
  std::string_view line = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

std::string_view Trim(std::string_view text) {
  const auto space = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && space(text.front())) text.remove_prefix(1);
  while (!text.empty() && space(text.back())) text.remove_suffix(1);
  return text;
}

void Emit(std::vector<PackageFiles>& found, PackageFiles& record) {
  if (!record.package.name.empty() && !record.package.version.empty()) found.push_back(std::move(record));
  record = {};
}

// "install ok installed": the third word says whether the files are there.
bool HasFiles(std::string_view status) {
  const std::string_view state = status.substr(status.rfind(' ') + 1);
  return state != "not-installed" && state != "config-files";
}

}  // namespace

std::vector<PackageFiles> ParseDpkgStatus(std::string_view text) {
  std::vector<PackageFiles> found;
  PackageFiles record;
  bool present = true;
  const auto end = [&] {
    if (!present) record = {};
    Emit(found, record);
    present = true;
  };
  while (!text.empty()) {
    const std::string_view line = TakeLine(text);
    if (Trim(line).empty()) {
      end();
      continue;
    }
    const std::size_t colon = line.find(':');
    if (line.front() == ' ' || line.front() == '\t' || colon == std::string_view::npos) continue;
    const std::string_view key = line.substr(0, colon);
    const std::string_view value = Trim(line.substr(colon + 1));
    Package& package = record.package;
    package.type = "deb";
    if (key == "Package") package.name = value;
    if (key == "Version") package.version = value;
    if (key == "Architecture") package.architecture = value;
    if (key == "Maintainer") package.supplier = value;
    if (key == "Homepage") package.homepage = value;
    if (key == "Status") present = HasFiles(value);
  }
  end();
  return found;
}

std::vector<PackageFiles> ParseApkInstalled(std::string_view text) {
  std::vector<PackageFiles> found;
  PackageFiles record;
  std::string prefix;
  while (!text.empty()) {
    const std::string_view line = TakeLine(text);
    if (line.empty()) {
      Emit(found, record);
      prefix.clear();
      continue;
    }
    if (line.size() < 2 || line[1] != ':') continue;
    const std::string value(line.substr(2));
    Package& package = record.package;
    package.type = "apk";
    switch (line[0]) {
      case 'P':
        package.name = value;
        break;
      case 'V':
        package.version = value;
        break;
      case 'A':
        package.architecture = value;
        break;
      case 'm':
        package.supplier = value;
        break;
      case 'U':
        package.homepage = value;
        break;
      case 'L':
        package.license = value;
        break;
      case 'F':
        prefix = value.empty() ? value : value + "/";
        break;
      case 'R':
        record.paths.push_back(prefix + value);
        break;
      default:
        break;
    }
  }
  Emit(found, record);
  return found;
}

const char* const kRpmQuery =
    "P\\t%{NAME}\\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{VENDOR}\\t%{URL}\\t%{LICENSE}\\n"
    "[F\\t%{FILENAMES}\\n]";

std::vector<PackageFiles> ParseRpmQuery(std::string_view text) {
  std::vector<PackageFiles> found;
  PackageFiles record;
  while (!text.empty()) {
    std::string_view line = TakeLine(text);
    if (line.starts_with("F\t")) {
      record.paths.emplace_back(line.substr(2));
      continue;
    }
    if (!line.starts_with("P\t")) continue;
    Emit(found, record);
    line.remove_prefix(2);
    Package& package = record.package;
    package.type = "rpm";
    const std::array<std::string*, 6> fields = {&package.name,     &package.version,  &package.architecture,
                                                &package.supplier, &package.homepage, &package.license};
    for (std::string* field : fields) {
      const std::size_t tab = line.find('\t');
      const std::string_view value = line.substr(0, tab);
      line.remove_prefix(tab == std::string_view::npos ? line.size() : tab + 1);
      if (value != "(none)") *field = value;
    }
    // Keys that rpm trusts lie in its database as if they were packages.
    if (package.name == "gpg-pubkey") record = {};
  }
  Emit(found, record);
  return found;
}

}  // namespace sealift::build
