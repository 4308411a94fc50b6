// A fleet's people and keys as orders need them: orders-root, an orders key, an operator CA and three
// persons. The keys are software; orders themselves are made by the code under test.
#pragma once

#include <map>
#include <string>

#include "shared/order/delegation.h"
#include "shared/order/order.h"
#include "tests/support/test_pki.h"

namespace sealift::test {

class OrderWorld {
 public:
  OrderWorld() {
    persons_.emplace("anna", MakePerson("anna", "operator"));
    persons_.emplace("bert", MakePerson("bert", "approver"));
    persons_.emplace("carl", MakePerson("carl", "custodian"));
  }

  TestCertificate MakePerson(const std::string& name, const std::string& role, long not_before = -3600,
                             long not_after = 24L * 3600 * 365) const {
    return Issue({.common_name = name,
                  .subject_alt_name = "URI:sealift:operator:" + name + "?role=" + role,
                  .not_before = not_before,
                  .not_after = not_after},
                 &operator_ca_);
  }
  static Certificate Parsed(const TestCertificate& certificate) {
    return Certificate::FromPem(certificate.Pem()).value();
  }
  static order::PersonSignature Sign(const TestCertificate& person, const std::string& canonical) {
    return {.certificate = Parsed(person).der(),
            .signature = person.key->SignMessage(AsBytes(canonical), "test").value()};
  }
  order::PersonSignature SignAs(const std::string& name, const std::string& canonical) const {
    return Sign(persons_.at(name), canonical);
  }

  order::Delegation delegation() const {
    return {.orders = {orders_->public_key()},
            .operator_cas = {Parsed(operator_ca_)},
            .issued = now_,
            .expires = now_ + std::chrono::hours(24 * 30)};
  }
  std::string DelegationText() const { return order::MakeDelegation(delegation(), *root_).value(); }

  order::ChangeRequest Request(order::Action action,
                               std::map<std::string, std::string> parameters = {}) const {
    return {.id = std::string(32, 'a'),
            .action = action,
            .parameters = std::move(parameters),
            .node = node_,
            .ek_digest = ek_,
            .nonce = order::NonceFor(ek_, 7),
            .requester = "anna",
            .reason = "disk is worn",
            .created = now_,
            .expires = now_ + std::chrono::hours(24)};
  }
  order::OrderParts Parts(const order::ChangeRequest& request) const {
    const std::string canonical = order::CanonicalRequest(request);
    return {.canonical = canonical,
            .requester = SignAs(request.requester, canonical),
            .approver = SignAs("bert", canonical),
            .delegation = DelegationText(),
            .issued = now_};
  }
  std::string Order(const order::ChangeRequest& request) const {
    return order::MakeOrder(Parts(request), *orders_).value();
  }
  order::OrderContext Context() const {
    return {.orders_root = root_->public_key(),
            .ek_digest = ek_,
            .nonce = order::NonceFor(ek_, 7),
            .now = now_ + std::chrono::minutes(1)};
  }

  UnixMillis now_ = std::chrono::floor<std::chrono::seconds>(SystemClock().Now());
  std::shared_ptr<SoftwareSigner> root_ = SoftwareSigner::Generate(KeyType::kEcP256).value();
  std::shared_ptr<SoftwareSigner> orders_ = SoftwareSigner::Generate(KeyType::kEcP256).value();
  TestCertificate operator_ca_ = MakeCa("operators");
  Sha256Digest ek_ = Sha256Digest::FromHex(std::string(64, '5')).value();
  NodeId node_ = NodeId::Parse("0193e4aa-0000-7000-8000-000000000001").value();
  std::map<std::string, TestCertificate> persons_;
};

}  // namespace sealift::test
