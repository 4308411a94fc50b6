#include "controller/build/agent.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "controller/source/debian_package.h"

namespace sealift::build {
namespace {

constexpr std::string_view kUnitFolder = "usr/lib/systemd/system/";
constexpr std::string_view kEnabledFolder = "etc/systemd/system/";
constexpr char kAgentUnit[] = "sealift-agent.service";
constexpr std::uint64_t kMaxUnitBytes = 1u << 20;

bool IsUnitName(std::string_view name) {
  return !name.empty() && name.front() != '.' && name.find('/') == std::string_view::npos;
}

struct Wish {
  // "wants" or "requires".
  std::string_view kind;
  std::string target;
};

// systemd.unit(5), [Install].
std::vector<Wish> WishesOf(std::string_view text) {
  std::vector<Wish> wishes;
  bool install = false;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.starts_with('[')) install = line.starts_with("[Install]");
    const bool wanted = line.starts_with("WantedBy=");
    if (!install || (!wanted && !line.starts_with("RequiredBy="))) continue;
    std::string_view names = line.substr(line.find('=') + 1);
    while (!names.empty()) {
      const std::string_view name = names.substr(0, names.find(' '));
      names.remove_prefix(std::min(names.size(), name.size() + 1));
      if (IsUnitName(name)) wishes.push_back({wanted ? "wants" : "requires", std::string(name)});
    }
  }
  return wishes;
}

Status Enable(Tree& tree, const std::string& path) {
  const std::string unit = path.substr(path.rfind('/') + 1);
  SEALIFT_ASSIGN_OR_RETURN(const Bytes text, tree.ReadFile(path, kMaxUnitBytes));
  for (const Wish& wish : WishesOf(AsText(text)))
    tree.PutLink(fmt::format("{}{}.{}/{}", kEnabledFolder, wish.target, wish.kind, unit), "/" + path);
  return OkStatus();
}

}  // namespace

Status AddAgent(Tree& tree, const std::filesystem::path& deb) {
  const Result<std::vector<std::string>> files = UnpackDebianPackage(deb, tree);
  if (!files.ok()) return Annotate(files.status(), fmt::format("add agent from '{}'", deb.string()));
  if (std::find(files->begin(), files->end(), kAgentPath) == files->end()) {
    return MakeError(Code::kInvalidArgument, Reason::kSourceUnusable,
                     fmt::format("add agent from '{}': the package has no /{}", deb.string(), kAgentPath));
  }
  for (const std::string& path : *files) {
    const std::size_t slash = path.rfind('/') + 1;
    if (path.substr(0, slash) == kUnitFolder) SEALIFT_RETURN_IF_ERROR(Enable(tree, path));
  }
  return OkStatus();
}

void CheckAgent(const Tree& tree, std::vector<std::string>& remarks) {
  const TreeEntry* agent = tree.Find(tree.Resolve(kAgentPath));
  if (agent == nullptr || !S_ISREG(agent->mode) || (agent->mode & S_IXUSR) == 0) {
    remarks.push_back(
        fmt::format("the tree has no /{}: machines will neither enrol nor upgrade; add it with --with-agent",
                    kAgentPath));
    return;
  }
  const auto enables = [](const auto& item) {
    return item.first.starts_with(kEnabledFolder) && item.first.ends_with(std::string("/") + kAgentUnit);
  };
  if (std::any_of(tree.entries().begin(), tree.entries().end(), enables)) return;
  remarks.push_back(fmt::format("nothing starts the agent: enable {} in the tree", kAgentUnit));
}

}  // namespace sealift::build
