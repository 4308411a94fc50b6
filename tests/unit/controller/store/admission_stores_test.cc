#include "controller/store/sqlite_stores.h"
#include "shared/base/files.h"
#include "tests/contract/admission_contract.h"

namespace sealift::controller {
namespace {

class SqliteAdmissionBackend final : public AdmissionBackend {
 public:
  NodeStore& nodes() override { return stores_->nodes(); }
  AdmissionStore& admission() override { return stores_->admission(); }
  CertificateStore& certificates() override { return stores_->certificates(); }
  InventoryStore& inventory() override { return stores_->inventory(); }
  JoinTokenStore& join_tokens() override { return stores_->join_tokens(); }
  RefusalStore& refusals() override { return stores_->refusals(); }
  QuoteClockStore& quote_clocks() override { return stores_->quote_clocks(); }

 private:
  const TempDir dir_ = TempDir::Create("admission").value();
  std::unique_ptr<SqliteStores> stores_ = SqliteStores::Open(dir_.path()).value();
};

std::unique_ptr<AdmissionBackend> MakeSqliteAdmissionBackend() {
  return std::make_unique<SqliteAdmissionBackend>();
}

INSTANTIATE_TEST_SUITE_P(Sqlite, AdmissionContract, ::testing::Values(&MakeSqliteAdmissionBackend));

TEST(SqliteRefusals, StrangersDoNotFillTheDatabase) {
  const TempDir dir = TempDir::Create("admission").value();
  const auto stores = SqliteStores::Open(dir.path()).value();
  std::vector<std::jthread> threads;
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&stores, t] {
      for (int i = 0; i < 640; ++i) {
        Refusal refusal{.ek_digest = Sha256(AsBytes(fmt::format("{} {}", t, i)))};
        refusal.reason = "EK_NOT_LISTED";
        SEALIFT_CHECK(stores->refusals().Record(refusal).ok());
      }
    });
  }
  threads.clear();
  EXPECT_EQ(stores->refusals().List(std::nullopt, 1'000'000)->size(), 10'000u);
}

}  // namespace
}  // namespace sealift::controller
