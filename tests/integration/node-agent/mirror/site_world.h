// Nodes of one site with certificates of one node CA, and what a controller would tell them.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "node-agent/mirror/neighbour_source.h"
#include "node-agent/mirror/share_server.h"
#include "node-agent/update/content_fetcher.h"
#include "shared/crypto/certificate.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/key_reference.h"
#include "tests/support/test_pki.h"

namespace sealift::agent {

inline std::string IdOf(int number) { return "01890000-0000-7000-8000-00000000000" + std::to_string(number); }

class FakeHints final : public SiteHints {
 public:
  Result<SiteAdvice> Locate(const Sha256Digest&, const std::set<std::string>& without) override {
    const std::lock_guard lock(mutex);
    ++asked;
    failed.insert(without.begin(), without.end());
    SiteAdvice advice;
    for (const SiteNeighbour& holder : holders)
      if (!without.contains(holder.node_id) && !advice.holder) advice.holder = holder;
    if (!advice.holder) advice.wait = wait;
    return advice;
  }
  Status Offer(const std::vector<Sha256Digest>& objects, const std::string& address) override {
    const std::lock_guard lock(mutex);
    for (const Sha256Digest& object : objects) offers.emplace_back(object, address);
    return OkStatus();
  }
  Result<std::string> NodeCas() override { return node_cas; }
  Result<bool> Admits(ByteView certificate) override {
    const std::lock_guard lock(mutex);
    const auto peer = Certificate::FromDer(certificate);
    return peer.ok() && members.contains(peer->uris().front());
  }
  std::size_t Offers() {
    const std::lock_guard lock(mutex);
    return offers.size();
  }

  std::mutex mutex;
  std::vector<SiteNeighbour> holders;
  std::chrono::milliseconds wait{};
  std::set<std::string> members;
  std::string node_cas;
  int asked = 0;
  std::set<std::string> failed;
  std::vector<std::pair<Sha256Digest, std::string>> offers;
};

// What there is without neighbours.
class FakeController final : public content::ContentSource {
 public:
  explicit FakeController(const Bytes& bytes) : bytes_(bytes) {}
  Status Fetch(const Sha256Digest&, std::uint64_t from, const content::Sink& sink) override {
    ++asked;
    offset = from;
    if (!problem.ok()) return problem;
    return sink(ByteView(bytes_).subspan(from));
  }
  std::atomic<int> asked{0};
  std::uint64_t offset = 0;
  Status problem;

 private:
  const Bytes& bytes_;
};

class SiteWorld : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(InstallKeyProvider().ok());
    for (int i = 1; i <= 3; ++i) hints_.members.insert("sealift:node:" + IdOf(i));
    hints_.node_cas = ca_.Pem();
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / "proven", object_).ok());
  }
  static Bytes MakeObject() {
    Bytes object(700'000);
    for (std::size_t i = 0; i < object.size(); ++i) object[i] = static_cast<std::uint8_t>(i * 7 + i / 251);
    return object;
  }
  static NodeTls Node(int number, const test::TestCertificate& ca, long not_after = 3600) {
    const auto certificate = test::Issue({.common_name = "node",
                                          .subject_alt_name = "URI:sealift:node:" + IdOf(number),
                                          .not_after = not_after,
                                          .extended_key_usage = "clientAuth"},
                                         &ca);
    return {.chain = certificate.Pem(), .key = certificate.KeyPem()};
  }
  std::filesystem::path ShareOf(int number) const {
    return folder_.path() / ("share-" + std::to_string(number));
  }
  std::unique_ptr<ShareServer> Start(int number, ShareOptions options = {}, long not_after = 3600) {
    options.listen = "127.0.0.1:0";
    auto server = ShareServer::Start(std::move(options), ShareOf(number), hints_,
                                     [tls = Node(number, ca_, not_after)] { return tls; });
    EXPECT_TRUE(server.ok()) << Describe(server.status());
    return std::move(*server);
  }
  // One that has the object, as the controller knows.
  std::unique_ptr<ShareServer> Serve(int number, ShareOptions options = {}, long not_after = 3600) {
    auto server = Start(number, std::move(options), not_after);
    EXPECT_TRUE(server->Add(digest_, folder_.path() / "proven"));
    const std::lock_guard lock(hints_.mutex);
    hints_.holders.push_back({IdOf(number), server->listening()});
    return server;
  }
  // What it serves under the object's name from now on, although it proved another thing.
  void Tamper(int number, ByteView bytes) {
    const std::filesystem::path file = folder_.path() / "tampered";
    ASSERT_TRUE(WriteFileAtomically(file, bytes).ok());
    std::filesystem::rename(file, ShareOf(number) / digest_.hex());
  }
  NeighbourOptions Options(NodeTls own) {
    return {.own = [tls = std::move(own)] { return tls; },
            .minimum_rate = 100'000,
            .rate_window = std::chrono::milliseconds(500),
            .connect_timeout = std::chrono::seconds(5),
            .wait_at_once = std::chrono::seconds(5)};
  }
  NeighbourSource Source(NodeTls own) { return {Options(std::move(own)), hints_, controller_}; }
  NeighbourSource Source(int number) { return Source(Node(number, ca_)); }
  Result<Bytes> Fetch(NeighbourSource& source, std::uint64_t offset = 0) {
    Bytes got;
    SEALIFT_RETURN_IF_ERROR(source.Fetch(digest_, offset, [&](ByteView piece) {
      Append(got, piece);
      return OkStatus();
    }));
    return got;
  }
  // As the agent fetches: over a file, proven in the end.
  Result<Bytes> FetchProven(NeighbourSource& source, int rounds = 5) {
    ContentFetcher fetcher(source, folder_.path() / "store",
                           {.reserve_bytes = 0,
                            .blame = [&](const Sha256Digest& digest) { return source.Blame(digest); },
                            .waits = [&] { return source.waits(); }});
    for (int i = 0; i < rounds; ++i) {
      SEALIFT_ASSIGN_OR_RETURN(const FetchProgress progress, fetcher.FetchSome(digest_, object_.size()));
      SEALIFT_RETURN_IF_ERROR(progress.source);
      if (progress.complete) return ReadFile(progress.file);
    }
    return MakeError(Code::kUnavailable, Reason::kContentIncomplete, "not complete");
  }

  const TempDir folder_ = TempDir::Create("neighbours").value();
  const test::TestCertificate ca_ = test::MakeCa("node ca");
  const Bytes object_ = MakeObject();
  const Sha256Digest digest_ = Sha256(object_);
  FakeHints hints_;
  FakeController controller_{object_};
};

}  // namespace sealift::agent
