// Every store of the controller in one SQLite file, and large evidence beside it by digest.
//
// Thread-safe; the references live as long as this object.
#pragma once

#include <filesystem>
#include <memory>

#include "controller/fleet/admission.h"
#include "controller/fleet/baseline.h"
#include "controller/fleet/node_counts.h"
#include "controller/fleet/policy_enforcer.h"
#include "controller/fleet/revocations.h"
#include "controller/fleet/stores.h"
#include "controller/secret/secret.h"
#include "controller/store/sqlite_db.h"

namespace sealift::controller {

const std::vector<Migration>& Migrations();

// How much evidence is kept of each node.
struct EvidenceLimits {
  // Records that say what the one before says; of those that differ ten times as many. 0: all.
  std::size_t keep = 200;
};

class SqliteStores {
 public:
  // `folder` gets controller.db and evidence/; made (0700) where missing. Errors: those of SqliteDb::Open.
  static Result<std::unique_ptr<SqliteStores>> Open(const std::filesystem::path& folder,
                                                    EvidenceLimits evidence = {});

  NodeStore& nodes() { return *nodes_; }
  NodeStatusStore& node_status() { return *node_status_; }
  RolloutStore& rollouts() { return *rollouts_; }
  ReleaseStore& releases() { return *releases_; }
  AdmissionStore& admission() { return *admission_; }
  EvidenceStore& evidence() { return *evidence_; }
  AuditStore& audit() { return *audit_; }
  CertificateStore& certificates() { return *certificates_; }
  RequestStore& requests() { return *requests_; }
  EscrowStore& escrow() { return *escrow_; }
  InventoryStore& inventory() { return *inventory_; }
  JoinTokenStore& join_tokens() { return *join_tokens_; }
  RefusalStore& refusals() { return *refusals_; }
  QuoteClockStore& quote_clocks() { return *quote_clocks_; }
  SecretStore& secrets() { return *secrets_; }
  NodeCounts& node_counts() { return *node_counts_; }
  BaselineStore& baselines() { return *baselines_; }
  RevocationsStore& revocations() { return *revocations_; }
  PolicyStore& policy() { return *policy_; }
  SqliteDb& db() { return *db_; }

 private:
  SqliteStores() = default;
  // First, since the stores below borrow it.
  std::unique_ptr<SqliteDb> db_;
  std::unique_ptr<NodeStore> nodes_;
  std::unique_ptr<NodeStatusStore> node_status_;
  std::unique_ptr<RolloutStore> rollouts_;
  std::unique_ptr<ReleaseStore> releases_;
  std::unique_ptr<AdmissionStore> admission_;
  std::unique_ptr<EvidenceStore> evidence_;
  std::unique_ptr<AuditStore> audit_;
  std::unique_ptr<CertificateStore> certificates_;
  std::unique_ptr<RequestStore> requests_;
  std::unique_ptr<EscrowStore> escrow_;
  std::unique_ptr<InventoryStore> inventory_;
  std::unique_ptr<JoinTokenStore> join_tokens_;
  std::unique_ptr<RefusalStore> refusals_;
  std::unique_ptr<QuoteClockStore> quote_clocks_;
  std::unique_ptr<SecretStore> secrets_;
  std::unique_ptr<NodeCounts> node_counts_;
  std::unique_ptr<BaselineStore> baselines_;
  std::unique_ptr<RevocationsStore> revocations_;
  std::unique_ptr<PolicyStore> policy_;
};

// One constructor a store, each in the file named after it.
std::unique_ptr<NodeStore> MakeSqliteNodeStore(SqliteDb& db);
std::unique_ptr<NodeStatusStore> MakeSqliteNodeStatusStore(SqliteDb& db);
std::unique_ptr<RolloutStore> MakeSqliteRolloutStore(SqliteDb& db);
std::unique_ptr<ReleaseStore> MakeSqliteReleaseStore(SqliteDb& db);
std::unique_ptr<AdmissionStore> MakeSqliteAdmissionStore(SqliteDb& db);
std::unique_ptr<EvidenceStore> MakeSqliteEvidenceStore(SqliteDb& db, std::filesystem::path blobs,
                                                       EvidenceLimits limits);
extern const char kEvidenceLimitsSchema[];
std::unique_ptr<AuditStore> MakeSqliteAuditStore(SqliteDb& db);
std::unique_ptr<CertificateStore> MakeSqliteCertificateStore(SqliteDb& db);
std::unique_ptr<RequestStore> MakeSqliteRequestStore(SqliteDb& db);
std::unique_ptr<EscrowStore> MakeSqliteEscrowStore(SqliteDb& db);
std::unique_ptr<InventoryStore> MakeSqliteInventoryStore(SqliteDb& db);
std::unique_ptr<JoinTokenStore> MakeSqliteJoinTokenStore(SqliteDb& db);
std::unique_ptr<RefusalStore> MakeSqliteRefusalStore(SqliteDb& db);
std::unique_ptr<QuoteClockStore> MakeSqliteQuoteClockStore(SqliteDb& db);
std::unique_ptr<BaselineStore> MakeSqliteBaselineStore(SqliteDb& db);
std::unique_ptr<RevocationsStore> MakeSqliteRevocationsStore(SqliteDb& db);
std::unique_ptr<PolicyStore> MakeSqlitePolicyStore(SqliteDb& db);
// Migrations, each in the file that uses it.
extern const char kAdmissionSchema[];
extern const char kQuoteClockSchema[];
std::unique_ptr<SecretStore> MakeSqliteSecretStore(SqliteDb& db);
extern const char kSecretSchema[];
std::unique_ptr<NodeCounts> MakeSqliteNodeCounts(SqliteDb& db);
extern const char kNodeCountsSchema[];
extern const char kBaselineSchema[];

}  // namespace sealift::controller
