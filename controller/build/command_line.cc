#include "controller/build/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace sealift::build {
namespace {

// What the kernel and systemd take for "no".
bool IsOff(std::string_view value) {
  constexpr std::array<std::string_view, 7> kOff = {"0", "no", "n", "false", "f", "off", "N"};
  return std::find(kOff.begin(), kOff.end(), value) != kOff.end();
}

struct Word {
  // With '_' for '-'.
  std::string name;
  std::string value;
  bool has_value = false;
};

Word Split(const std::string& text) {
  const std::size_t equals = text.find('=');
  Word word{.name = text.substr(0, equals), .has_value = equals != std::string::npos};
  if (word.has_value) word.value = text.substr(equals + 1);
  std::replace(word.name.begin(), word.name.end(), '-', '_');
  return word;
}

// As proc_cmdline_parse() of systemd splits: single quotes count as double ones do, wherever they stand.
std::vector<std::string> WordsOfSystemd(std::string_view command_line) {
  std::vector<std::string> words;
  std::string word;
  char quote = 0;
  for (const char c : command_line) {
    if (quote != 0 ? c == quote : c == '"' || c == '\'') {
      quote = quote != 0 ? '\0' : c;
    } else if (c == ' ' && quote == 0) {
      if (!word.empty()) words.push_back(std::move(word));
      word.clear();
    } else {
      word += c;
    }
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

// The finding's name, empty for a harmless word.
std::string_view Judge(const Word& word) {
  std::string_view name = word.name;
  const bool on = !word.has_value || !IsOff(word.value);
  if (name == "init" || name == "rdinit") return word.has_value ? "cmdline-init" : "";
  if (name == "module.sig_enforce") return on ? "" : "cmdline-module-signatures-off";
  if (name == "lockdown") return word.value == "none" ? "cmdline-lockdown-none" : "";
  // systemd takes its own words with "rd." before them too, for an initrd.
  if (name.starts_with("rd.") && name != "rd.shell") name.remove_prefix(3);
  if (name == "rd.shell") return on ? "cmdline-rd-shell" : "";
  if (name == "debug_shell" || name == "systemd.debug_shell") return on ? "cmdline-debug-shell" : "";
  const bool unit = name == "systemd.unit";
  // What the kernel does not know and has no value goes to the first process, which takes it for a target.
  const std::string_view bare = word.has_value ? std::string_view() : name;
  if (bare == "emergency" || bare == "_b" || (unit && word.value == "emergency.target"))
    return "cmdline-emergency";
  if (bare == "rescue" || bare == "single" || bare == "_s" || bare == "s" || bare == "S" || bare == "1" ||
      (unit && word.value == "rescue.target"))
    return "cmdline-rescue";
  // systemd.wants=debug-shell.service and its kin.
  if (word.value.starts_with("debug-shell")) return "cmdline-debug-shell";
  return {};
}

}  // namespace

Status CheckCommandLine(std::string_view command_line, std::string_view what) {
  std::string problem;
  if (command_line.size() > kMaxCommandLine)
    problem = fmt::format("it has {} characters, {} are possible", command_line.size(), kMaxCommandLine);
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  if (std::any_of(command_line.begin(), command_line.end(), control))
    problem = "it holds a line end or another control character";
  if (problem.empty()) return OkStatus();
  return MakeError(Code::kInvalidArgument, Reason::kCommandLineInvalid,
                   fmt::format("take {}: {}", what, problem));
}

std::vector<std::string> CommandLineWords(std::string_view command_line) {
  std::vector<std::string> words;
  std::string word;
  bool quoted = false;
  bool any = false;
  for (const char c : command_line) {
    if (c == '"') {
      quoted = !quoted;
      any = true;
    } else if (c == ' ' && !quoted) {
      if (any) words.push_back(std::move(word));
      word.clear();
      any = false;
    } else {
      word += c;
      any = true;
    }
  }
  if (any) words.push_back(std::move(word));
  return words;
}

std::vector<RiskyWord> FindRiskyWords(std::string_view command_line) {
  std::vector<RiskyWord> found;
  std::vector<std::string> words = CommandLineWords(command_line);
  const std::size_t kernel_words = words.size();
  for (std::string& word : WordsOfSystemd(command_line)) {
    const auto end = words.begin() + static_cast<std::ptrdiff_t>(kernel_words);
    if (std::find(words.begin(), end, word) == end) words.push_back(std::move(word));
  }
  for (const std::string& text : words) {
    const std::string_view finding = Judge(Split(text));
    if (!finding.empty()) found.push_back({.finding = std::string(finding), .word = text});
  }
  return found;
}

}  // namespace sealift::build
