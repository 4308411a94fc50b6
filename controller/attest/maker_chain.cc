#include "controller/attest/maker_chain.h"

#include <fmt/format.h>
#include <openssl/err.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "shared/crypto/hash.h"

namespace sealift::controller {
namespace {

void FreeStack(STACK_OF(X509) * stack) { sk_X509_free(stack); }
using X509StackPtr = CPtr<STACK_OF(X509), FreeStack>;

// What a search may take: together well below a second on the machines a controller runs on.
constexpr int kMaxSignatureChecks = 1024;
constexpr int kMaxNameChecks = 262144;
constexpr int kMaxSteps = 16384;
constexpr int kMaxJudgedPaths = 64;
constexpr int kMaxIssuerRsaBits = 8192;
constexpr std::string_view kAnyPurpose = "2.5.29.37.0";
// Subject directory attributes: the TPM's specification, which says nothing about whether the chain holds.
constexpr int kHarmlessCritical = NID_subject_directory_attributes;

Status Refuse(std::string_view cause) {
  return MakeError(Code::kUnauthenticated, Reason::kEkCertificateInvalid,
                   fmt::format("verify EK certificate: {}", cause));
}

Status CheckRole(const MakerCertificate& leaf, MakerRole role) {
  if ((X509_get_extension_flags(leaf.x509()) & EXFLAG_INVALID) != 0) {
    return Refuse("its extensions are malformed or given twice");
  }
  if (role == MakerRole::kCa) {
    return leaf.MayIssue() ? OkStatus() : Refuse("it is not that of a CA that may sign certificates");
  }
  if (leaf.is_ca()) return Refuse("it is that of a CA");
  if (leaf.key() == nullptr) return Refuse("its key is not usable");
  if (X509_get_ext_by_NID(leaf.x509(), NID_ext_key_usage, -1) < 0) return OkStatus();
  for (const std::string& purpose : leaf.purposes()) {
    if (purpose == kEndorsementKeyPurpose || purpose == kAnyPurpose) return OkStatus();
  }
  return Refuse("it is meant for something else than an endorsement key");
}

int AllowHarmless(int ok, X509_STORE_CTX* context) {
  // Its signature was verified as it stands; this one is a copy with a key that OpenSSL reads.
  if (ok == 0 && X509_STORE_CTX_get_app_data(context) != nullptr &&
      X509_STORE_CTX_get_error_depth(context) == 0 &&
      X509_STORE_CTX_get_error(context) == X509_V_ERR_CERT_SIGNATURE_FAILURE) {
    X509_STORE_CTX_set_error(context, X509_V_OK);
    return 1;
  }
  if (ok == 1 || X509_STORE_CTX_get_error(context) != X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION ||
      X509_STORE_CTX_get_error_depth(context) != 0) {
    return ok;
  }
  const X509* leaf = X509_STORE_CTX_get_current_cert(context);
  for (int i = 0; i < X509_get_ext_count(leaf); ++i) {
    X509_EXTENSION* extension = X509_get_ext(leaf, i);
    if (X509_EXTENSION_get_critical(extension) == 0 || X509_supported_extension(extension) != 0) continue;
    if (OBJ_obj2nid(X509_EXTENSION_get_object(extension)) != kHarmlessCritical) return 0;
  }
  X509_STORE_CTX_set_error(context, X509_V_OK);
  return 1;
}

bool SignedWithBrokenHash(const MakerCertificate& certificate) {
  int hash = NID_undef;
  X509_get_signature_info(certificate.x509(), &hash, nullptr, nullptr, nullptr);
  return hash == NID_md5 || hash == NID_md4 || hash == NID_md2 || hash == NID_mdc2;
}

class Search {
 public:
  Search(const MakerCertificate& leaf, std::span<const MakerCertificate> helpers,
         std::span<const MakerCertificate> anchors, UnixMillis at)
      : at_(at) {
    Add(leaf, false);
    for (const MakerCertificate& anchor : anchors) Add(anchor, true);
    for (const MakerCertificate& helper : helpers) Add(helper, false);
  }

  // Nothing where there is no path; `cause` then says why.
  std::optional<std::vector<MakerCertificate>> Run() {
    if (!nodes_.front().certificate.ValidAt(at_)) return Fail("it is not valid at that time");
    if (nodes_.front().anchor && Judge({0})) return Path({0});
    Reach();
    if (exhausted_) return Fail("too many certificates could have issued it");
    if (!nodes_.front().distance) return std::nullopt;
    for (std::size_t length = *nodes_.front().distance; length < kMaxChainLength; ++length) {
      std::vector<std::size_t> path{0};
      if (Walk(path, length)) return Path(path);
      if (exhausted_) return Fail("too many paths could lead to an anchor");
    }
    return std::nullopt;
  }
  std::string cause() const {
    return about_ ? fmt::format("'{}' {}", about_->SubjectText(), cause_) : std::string(cause_);
  }

 private:
  struct Node {
    MakerCertificate certificate;
    bool anchor = false;
    // Subject and key: a path names no CA twice.
    Sha256Digest entity;
    // Once asked for.
    std::optional<std::vector<std::size_t>> issuers;
    // Issuers on the shortest way to an anchor.
    std::optional<std::size_t> distance;
  };

  void Add(const MakerCertificate& certificate, bool anchor) {
    const auto [at, fresh] = by_digest_.try_emplace(certificate.fingerprint(), nodes_.size());
    if (!fresh) {
      nodes_[at->second].anchor = nodes_[at->second].anchor || anchor;
      return;
    }
    const unsigned long name = X509_subject_name_hash(certificate.x509());
    Sha256Hasher entity;
    entity.Update(AsBytes(std::to_string(name)));
    unsigned char* spki = nullptr;
    const int size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate.x509()), &spki);
    if (size > 0) entity.Update(ByteView(spki, static_cast<std::size_t>(size)));
    OPENSSL_free(spki);
    nodes_.push_back({.certificate = certificate, .anchor = anchor, .entity = entity.Finish()});
    by_name_.emplace(name, nodes_.size() - 1);
  }

  std::nullopt_t Fail(std::string_view literal) {
    cause_ = literal;
    about_.reset();
    return std::nullopt;
  }

  std::vector<MakerCertificate> Path(const std::vector<std::size_t>& path) const {
    std::vector<MakerCertificate> chain;
    for (const std::size_t at : path) chain.push_back(nodes_[at].certificate);
    return chain;
  }

  bool Issued(const Node& issuer, const Node& subject) {
    const MakerCertificate& by = issuer.certificate;
    const auto because = [&](std::string_view cause) {
      cause_ = cause;
      about_ = by;
      return false;
    };
    if (!by.MayIssue()) return because("is no CA that may sign certificates");
    if (!by.ValidAt(at_)) return because("is not valid at that time");
    if (by.key() == nullptr || by.key_bits() > kMaxIssuerRsaBits) return because("has no usable key");
    if (X509_check_issued(by.x509(), subject.certificate.x509()) != X509_V_OK)
      return because("is not the issuer that the certificate names");
    if (SignedWithBrokenHash(subject.certificate)) return because("signed with a broken hash");
    return Signed(issuer, subject) || because("did not sign it");
  }

  // One check a CA, however many certificates it has.
  bool Signed(const Node& issuer, const Node& subject) {
    const auto [known, fresh] =
        signed_.try_emplace({subject.certificate.fingerprint(), issuer.entity}, false);
    if (!fresh) return known->second;
    if (++signature_checks_ > kMaxSignatureChecks) {
      exhausted_ = true;
      return false;
    }
    known->second = X509_verify(subject.certificate.x509(), issuer.certificate.key()) == 1;
    ERR_clear_error();
    return known->second;
  }

  const std::vector<std::size_t>& IssuersOf(std::size_t at) {
    if (nodes_[at].issuers) return *nodes_[at].issuers;
    std::vector<std::size_t> found;
    const auto [first, last] = by_name_.equal_range(X509_issuer_name_hash(nodes_[at].certificate.x509()));
    for (auto candidate = first; candidate != last && !exhausted_; ++candidate) {
      if (candidate->second == at) continue;
      if (++name_checks_ > kMaxNameChecks) exhausted_ = true;
      if (Issued(nodes_[candidate->second], nodes_[at])) found.push_back(candidate->second);
    }
    return nodes_[at].issuers.emplace(std::move(found));
  }

  // Finds what can be on a path at all, and how far each is from an anchor.
  void Reach() {
    std::vector<std::vector<std::size_t>> issued(nodes_.size());
    std::vector<bool> seen(nodes_.size(), false);
    std::deque<std::size_t> open{0};
    std::deque<std::size_t> anchors;
    seen[0] = true;
    while (!open.empty() && !exhausted_) {
      const std::size_t at = open.front();
      open.pop_front();
      if (nodes_[at].anchor) {
        nodes_[at].distance = 0;
        anchors.push_back(at);
        continue;
      }
      for (const std::size_t issuer : IssuersOf(at)) {
        issued[issuer].push_back(at);
        if (!seen[issuer]) open.push_back(issuer);
        seen[issuer] = true;
      }
    }
    while (!anchors.empty()) {
      const std::size_t at = anchors.front();
      anchors.pop_front();
      for (const std::size_t below : issued[at]) {
        if (nodes_[below].distance) continue;
        nodes_[below].distance = *nodes_[at].distance + 1;
        anchors.push_back(below);
      }
    }
  }

  // Extends `path` by exactly `left` issuers to an anchor.
  bool Walk(std::vector<std::size_t>& path, std::size_t left) {
    if (++steps_ > kMaxSteps) exhausted_ = true;
    if (exhausted_) return false;
    const std::size_t at = path.back();
    if (left == 0) return nodes_[at].anchor && Judge(path);
    if (nodes_[at].anchor) return false;
    for (const std::size_t issuer : IssuersOf(at)) {
      const Node& next = nodes_[issuer];
      if (!next.distance || *next.distance > left - 1 || Repeats(path, next)) continue;
      path.push_back(issuer);
      if (Walk(path, left - 1)) return true;
      path.pop_back();
    }
    return false;
  }

  bool Repeats(const std::vector<std::size_t>& path, const Node& next) const {
    return std::ranges::any_of(path, [&](std::size_t at) { return nodes_[at].entity == next.entity; });
  }

  // What OpenSSL says of exactly this path. Times were looked at: to it the last second is one too late.
  bool Judge(const std::vector<std::size_t>& path) {
    if (++judged_ > kMaxJudgedPaths) {
      exhausted_ = true;
      return false;
    }
    const X509StorePtr store(X509_STORE_new());
    const X509StackPtr between(sk_X509_new_null());
    const X509StoreCtxPtr context(X509_STORE_CTX_new());
    SEALIFT_CHECK(store != nullptr && between != nullptr && context != nullptr);
    const MakerCertificate& first = nodes_[path.front()].certificate;
    X509* leaf = first.x509();
    // OpenSSL judges no certificate whose key it does not read, as one named id-RSAES-OAEP.
    X509Ptr readable;
    if (X509_get0_pubkey(leaf) == nullptr && first.key() != nullptr) {
      readable.reset(X509_dup(leaf));
      SEALIFT_CHECK(readable != nullptr && X509_set_pubkey(readable.get(), first.key()) == 1);
      leaf = readable.get();
    }
    X509* const anchor = path.size() == 1 ? leaf : nodes_[path.back()].certificate.x509();
    SEALIFT_CHECK(X509_STORE_add_cert(store.get(), anchor) == 1);
    for (std::size_t i = 1; i + 1 < path.size(); ++i) {
      SEALIFT_CHECK(sk_X509_push(between.get(), nodes_[path[i]].certificate.x509()) > 0);
    }
    SEALIFT_CHECK(X509_STORE_CTX_init(context.get(), store.get(), leaf, between.get()) == 1);
    X509_STORE_CTX_set_app_data(context.get(), readable.get());
    X509_VERIFY_PARAM* parameters = X509_STORE_CTX_get0_param(context.get());
    X509_VERIFY_PARAM_set_depth(parameters, static_cast<int>(kMaxChainLength));
    // In the order given: with "trusted first" an anchor of the same name could take the place of a helper.
    X509_VERIFY_PARAM_clear_flags(parameters, X509_V_FLAG_TRUSTED_FIRST);
    X509_VERIFY_PARAM_set_flags(parameters, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_NO_CHECK_TIME);
    X509_STORE_CTX_set_verify_cb(context.get(), AllowHarmless);
    const bool holds = X509_verify_cert(context.get()) == 1;
    if (!holds) Fail(X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get())));
    ERR_clear_error();
    return holds;
  }

  const UnixMillis at_;
  std::vector<Node> nodes_;
  std::map<Sha256Digest, std::size_t> by_digest_;
  std::multimap<unsigned long, std::size_t> by_name_;
  // By certificate and issuing entity.
  std::map<std::pair<Sha256Digest, Sha256Digest>, bool> signed_;
  // A literal, and whom it is about.
  std::string_view cause_ = "no certificate of its issuer is known";
  std::optional<MakerCertificate> about_;
  int signature_checks_ = 0;
  int name_checks_ = 0;
  int steps_ = 0;
  int judged_ = 0;
  bool exhausted_ = false;
};

}  // namespace

Result<std::vector<MakerCertificate>> VerifyMakerChain(const MakerCertificate& leaf,
                                                       std::span<const MakerCertificate> helpers,
                                                       std::span<const MakerCertificate> anchors,
                                                       UnixMillis at, MakerRole role) {
  SEALIFT_RETURN_IF_ERROR(CheckRole(leaf, role));
  Search search(leaf, helpers, anchors, at);
  std::optional<std::vector<MakerCertificate>> path = search.Run();
  if (path) return *std::move(path);
  return Refuse(fmt::format("{} (issued by {})", search.cause(), leaf.IssuerText()));
}

}  // namespace sealift::controller
