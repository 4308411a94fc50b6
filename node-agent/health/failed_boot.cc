#include "node-agent/health/failed_boot.h"

#include <algorithm>

#include "shared/base/foreign_text.h"
#include "shared/base/subprocess.h"
#include "shared/base/untrusted_files.h"

namespace sealift::agent {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxRecordBytes = 256u << 10;
constexpr std::size_t kMaxRecords = 64;
constexpr int kDepth = 2;
// What a kernel says as it dies, the most telling first.
constexpr std::string_view kLastWords[] = {"Kernel panic - not syncing", "BUG: ", "Oops: ", "watchdog: "};

std::string OneLine(std::string_view text) {
  std::string line;
  for (const char c : text) {
    if (c == '\n' || c == '\r' || c == '\t') {
      if (!line.empty() && line.back() != ' ') line += line.ends_with("; ") ? "" : "; ";
    } else {
      line += c;
    }
  }
  while (line.ends_with(' ') || line.ends_with(';')) line.pop_back();
  return line;
}

// Regular files below, newest name first.
std::vector<fs::path> Records(const fs::path& folder) {
  std::vector<fs::path> records;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, fs::directory_options::none, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end && records.size() < kMaxRecords;
       entry.increment(error)) {
    if (entry.depth() >= kDepth) entry.disable_recursion_pending();
    std::error_code ignored;
    if (fs::is_regular_file(entry->symlink_status(ignored))) records.push_back(entry->path());
  }
  std::sort(records.rbegin(), records.rend());
  return records;
}

std::string LastWords(const std::vector<fs::path>& folders) {
  for (const fs::path& folder : folders) {
    std::vector<std::string> texts;
    for (const fs::path& record : Records(folder)) {
      auto text = ReadRegularTextFile(record, kMaxRecordBytes);
      if (text.ok()) texts.push_back(*std::move(text));
    }
    for (const std::string_view words : kLastWords) {
      for (const std::string& text : texts) {
        const std::size_t at = text.find(words);
        if (at != std::string::npos) return text.substr(at, text.find('\n', at) - at);
      }
    }
  }
  return "";
}

}  // namespace

std::string WhyBootFailed(const FailedBootPlaces& places, std::size_t max_bytes) {
  std::string why;
  if (!places.journal_command.empty()) {
    const auto journal = RunCommandChecked(
        {.argv = places.journal_command, .timeout = places.timeout, .max_output_bytes = 64u << 10});
    if (journal.ok()) why = OneLine(journal->out);
  }
  const std::string words = LastWords(places.pstore);
  if (!words.empty()) why = why.empty() ? words : words + "; " + why;
  return Shorten(why, max_bytes);
}

}  // namespace sealift::agent
