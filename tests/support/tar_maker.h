// Writes tar archives that no well-meaning program writes: POSIX ustar, field by field.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "shared/base/bytes.h"

namespace sealift::test {

struct TarItem {
  std::string name;
  std::string content;
  // '0' file, '1' hard link, '2' symbolic link, '3' character device, '5' folder, 'x' pax header.
  char type = '0';
  unsigned mode = 0644;
  std::string link;
  unsigned uid = 0;
  unsigned device_major = 0;
  unsigned device_minor = 0;
  // Of the header, where it lies about the content.
  std::optional<std::uint64_t> size = std::nullopt;
};

class TarMaker {
 public:
  TarMaker& Add(const TarItem& item) {
    std::string header(512, '\0');
    const auto put = [&](std::size_t at, const std::string& text) { header.replace(at, text.size(), text); };
    put(0, item.name.substr(0, 100));
    put(100, fmt::format("{:07o}", item.mode));
    put(108, fmt::format("{:07o}", item.uid));
    put(116, fmt::format("{:07o}", item.uid));
    put(124, fmt::format("{:011o}", item.size.value_or(item.content.size())));
    put(136, fmt::format("{:011o}", 0));
    put(148, "        ");
    header[156] = item.type;
    put(157, item.link.substr(0, 100));
    put(257, std::string("ustar\0"
                         "00",
                         8));
    put(329, fmt::format("{:07o}", item.device_major));
    put(337, fmt::format("{:07o}", item.device_minor));
    unsigned sum = 0;
    for (const char c : header) sum += static_cast<unsigned char>(c);
    put(148, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
    text_ += header + item.content;
    text_.resize((text_.size() + 511) / 512 * 512, '\0');
    return *this;
  }
  // Attributes of the next item.
  TarMaker& Pax(const std::vector<std::pair<std::string, std::string>>& attributes) {
    std::string text;
    for (const auto& [key, value] : attributes) {
      const std::size_t bare = key.size() + value.size() + 3;
      std::size_t size = bare + 1;
      while (size != bare + std::to_string(size).size()) ++size;
      text += fmt::format("{} {}={}\n", size, key, value);
    }
    return Add({.name = "pax", .content = text, .type = 'x'});
  }
  TarMaker& File(const std::string& name, const std::string& content) {
    return Add({.name = name, .content = content});
  }
  TarMaker& Folder(const std::string& name) { return Add({.name = name, .type = '5', .mode = 0755}); }
  TarMaker& Link(const std::string& name, const std::string& target) {
    return Add({.name = name, .type = '2', .mode = 0777, .link = target});
  }
  TarMaker& HardLink(const std::string& name, const std::string& target) {
    return Add({.name = name, .type = '1', .link = target});
  }
  std::string Text() const { return text_ + std::string(1024, '\0'); }

 private:
  std::string text_;
};

}  // namespace sealift::test
