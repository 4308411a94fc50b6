#include "controller/buildhost/node_trust.h"

#include <fmt/format.h>

#include "shared/base/config.h"

namespace sealift::controller {
namespace {

struct Trust {
  std::string_view role;
  std::string_view table;
  std::string_view key;
};
constexpr Trust kTrusts[] = {{"orders-root", "orders", "root_pem"}, {"escrow", "escrow", "public_pem"}};

}  // namespace

Result<std::string> WithKeySetTrust(std::string node_config, const hsm::KeyRing& ring) {
  for (const Trust& trust : kTrusts) {
    const hsm::InventoryKey* newest = ring.inventory().Newest(trust.role);
    const std::string own = ConfigReader::Parse(node_config, "node.toml")
                                .String(fmt::format("{}.{}", trust.table, trust.key), "");
    const bool has_own =
        !own.empty() || node_config.find(fmt::format("[{}]", trust.table)) != std::string::npos;
    if (newest == nullptr || has_own) continue;
    SEALIFT_ASSIGN_OR_RETURN(const PublicKey key, ring.PublicKeyFor(*newest));
    if (!node_config.empty() && node_config.back() != '\n') node_config += '\n';
    node_config += fmt::format("[{}]\n{} = '''\n{}'''\n", trust.table, trust.key, key.Pem());
  }
  return node_config;
}

}  // namespace sealift::controller
