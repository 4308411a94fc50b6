#include "controller/buildhost/node_trust.h"

#include <fmt/format.h>

#include "shared/base/config.h"

namespace sealift::controller {

Result<std::string> WithOrdersRoot(std::string node_config, const hsm::KeyRing& ring) {
  const hsm::InventoryKey* root = ring.inventory().Newest("orders-root");
  const bool has_own = !ConfigReader::Parse(node_config, "node.toml").String("orders.root_pem", "").empty() ||
                       node_config.find("[orders]") != std::string::npos;
  if (root == nullptr || has_own) return node_config;
  SEALIFT_ASSIGN_OR_RETURN(const PublicKey key, ring.PublicKeyFor(*root));
  if (!node_config.empty() && node_config.back() != '\n') node_config += '\n';
  return fmt::format("{}[orders]\nroot_pem = '''\n{}'''\n", node_config, key.Pem());
}

}  // namespace sealift::controller
