// SiteService as the node calls it.
#pragma once

#include "node-agent/link/controller_link.h"
#include "node-agent/mirror/site_hints.h"

namespace sealift::agent {

// Thread-safe. Borrows `link`, whose certificate and channel it uses as they stand.
class SiteClient final : public SiteHints {
 public:
  explicit SiteClient(const ControllerLink& link) : link_(link) {}
  Result<SiteAdvice> Locate(const Sha256Digest& object, const std::set<std::string>& failed) override;
  Status Offer(const std::vector<Sha256Digest>& objects, const std::string& address) override;
  Result<std::string> NodeCas() override;
  Result<bool> Admits(ByteView certificate) override;

 private:
  const ControllerLink& link_;
};

}  // namespace sealift::agent
