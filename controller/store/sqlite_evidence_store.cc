// What machines had booted: a bounded history for each, its large parts in files by digest.
#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <shared_mutex>

#include "controller/store/codec.h"
#include "controller/store/sqlite_stores.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::controller {

// Rows of before count as changes. A node's newest record never goes.
const char kEvidenceLimitsSchema[] = R"sql(
ALTER TABLE evidence ADD COLUMN changed BIGINT NOT NULL DEFAULT 1;
CREATE INDEX evidence_by_kind ON evidence (node_id, changed, sequence);
CREATE INDEX evidence_by_log ON evidence (event_log);
CREATE INDEX evidence_by_expected ON evidence (expected);
DROP TRIGGER evidence_keeps;
CREATE TRIGGER evidence_keeps BEFORE DELETE ON evidence
  WHEN NOT EXISTS (SELECT 1 FROM evidence WHERE node_id = OLD.node_id AND sequence > OLD.sequence)
  BEGIN SELECT RAISE(ABORT, 'the newest evidence of a node stays'); END;
)sql";

namespace {

// As many changes of the verdict are kept as this times the others.
constexpr std::size_t kChangesFactor = 10;
// Of a long history from before there was a bound.
constexpr std::int64_t kMostAtOnce = 10'000;

class SqliteEvidenceStore final : public EvidenceStore {
 public:
  SqliteEvidenceStore(SqliteDb& db, std::filesystem::path blobs, EvidenceLimits limits)
      : db_(db), blobs_(std::move(blobs)), limits_(limits) {}

  Status Append(const EvidenceRecord& record) override {
    std::vector<Bytes> dropped;
    {
      const std::shared_lock lock(blobs_mutex_);
      SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest log, Keep(record.event_log));
      std::optional<Sha256Digest> expected;
      if (!record.expected.empty()) {
        SEALIFT_ASSIGN_OR_RETURN(expected, Keep(record.expected));
      }
      std::optional<Sha256Digest> baseline;
      if (!record.baseline.empty()) {
        SEALIFT_ASSIGN_OR_RETURN(baseline, Keep(record.baseline));
      }
      const Status written = db_.Write([&](SqliteConnection& connection) {
        dropped.clear();
        return Insert(connection, record, {.log = log, .expected = expected, .baseline = baseline}, dropped);
      });
      if (!written.ok()) return written;
    }
    RemoveUnnamed(dropped);
    return OkStatus();
  }

  Result<std::vector<EvidenceRecord>> History(const NodeId& id, std::size_t limit) override {
    std::vector<EvidenceRecord> records;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare("SELECT sequence, verdict, attest, signature, event_log, context, expected "
                             "FROM evidence WHERE node_id = $1 ORDER BY sequence DESC LIMIT $2"));
      query.Text(id.text()).Integer(static_cast<std::int64_t>(limit));
      for (;;) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) return OkStatus();
        SEALIFT_ASSIGN_OR_RETURN(EvidenceRecord record, ReadRecord(id, query));
        records.push_back(std::move(record));
      }
    }));
    return records;
  }

  Result<EvidenceRecord> Get(const NodeId& id, std::uint64_t sequence) override {
    EvidenceRecord record{.node_id = id};
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare("SELECT sequence, verdict, attest, signature, event_log, context, expected, "
                             "baseline FROM evidence WHERE node_id = $1 AND sequence = $2"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row,
                               query.Text(id.text()).Integer(static_cast<std::int64_t>(sequence)).Step());
      if (!row) {
        return MakeError(Code::kNotFound, Reason::kEvidenceInvalid,
                         fmt::format("find evidence {} of node {}", sequence, id.text()));
      }
      SEALIFT_ASSIGN_OR_RETURN(record, ReadRecord(id, query));
      if (const Bytes expected = query.BlobAt(6); !expected.empty()) {
        SEALIFT_ASSIGN_OR_RETURN(record.expected, ReadKept(id, expected));
      }
      if (const Bytes baseline = query.BlobAt(7); !baseline.empty()) {
        SEALIFT_ASSIGN_OR_RETURN(record.baseline, ReadKept(id, baseline));
      }
      return OkStatus();
    }));
    return record;
  }

 private:
  // The blob first: a row never names one that is not there. Equal ones, as of most boots, share a file.
  Result<Sha256Digest> Keep(ByteView blob) {
    const Sha256Digest digest = Sha256(blob);
    if (!std::filesystem::exists(blobs_ / digest.hex())) {
      SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(blobs_ / digest.hex(), blob, 0600));
    }
    return digest;
  }

  Result<Bytes> ReadKept(const NodeId& id, ByteView name) const {
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, Sha256Digest::FromBytes(name));
    SEALIFT_ASSIGN_OR_RETURN(Bytes blob, ReadFile(blobs_ / digest.hex()));
    if (Sha256(blob) != digest) {
      return MakeError(Code::kDataLoss, Reason::kStoreFailed,
                       fmt::format("read evidence of node {}: file {} was changed", id.text(), digest.hex()));
    }
    return blob;
  }

  // All but `expected` and `baseline`.
  Result<EvidenceRecord> ReadRecord(const NodeId& id, const SqliteStatement& row) {
    EvidenceRecord record{.node_id = id};
    record.sequence = static_cast<std::uint64_t>(row.IntegerAt(0));
    SEALIFT_ASSIGN_OR_RETURN(record.verdict, DecodeVerdict(row.TextAt(1)));
    record.attest = row.BlobAt(2);
    record.signature = row.BlobAt(3);
    SEALIFT_ASSIGN_OR_RETURN(record.event_log, ReadKept(id, row.BlobAt(4)));
    if (const std::string context = row.TextAt(5); !context.empty()) {
      SEALIFT_RETURN_IF_ERROR(DecodeEvidenceContext(context, record));
    }
    return record;
  }

  // What lies outside the table, by digest.
  struct Kept {
    Sha256Digest log;
    std::optional<Sha256Digest> expected;
    std::optional<Sha256Digest> baseline;
  };

  Status Insert(SqliteConnection& connection, const EvidenceRecord& record, const Kept& kept,
                std::vector<Bytes>& dropped) {
    SEALIFT_ASSIGN_OR_RETURN(const bool changed, Differs(connection, record));
    SEALIFT_ASSIGN_OR_RETURN(auto insert,
                             connection.Prepare("INSERT INTO evidence (node_id, verdict, attest, signature, "
                                                "event_log, context, expected, changed, baseline) "
                                                "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"));
    insert.Text(record.node_id.text()).Text(EncodeVerdict(record.verdict)).Blob(record.attest);
    insert.Blob(record.signature).Blob(kept.log.view()).Text(EncodeEvidenceContext(record));
    insert.Blob(kept.expected ? kept.expected->view() : ByteView()).Integer(changed ? 1 : 0);
    insert.Blob(kept.baseline ? kept.baseline->view() : ByteView());
    SEALIFT_RETURN_IF_ERROR(insert.Run().status());
    return Archive(connection, record, dropped);
  }

  // Whether it says something else than the node's record before it.
  static Result<bool> Differs(SqliteConnection& connection, const EvidenceRecord& record) {
    SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare("SELECT verdict FROM evidence WHERE node_id = $1 "
                                                            "ORDER BY sequence DESC LIMIT 1"));
    SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(record.node_id.text()).Step());
    if (!row) return true;
    SEALIFT_ASSIGN_OR_RETURN(const Verdict before, DecodeVerdict(query.TextAt(0)));
    const Verdict& now = record.verdict;
    return before.trust != now.trust || before.reasons != now.reasons ||
           before.release_id != now.release_id || before.degraded_boot != now.degraded_boot ||
           before.notes != now.notes;
  }

  // One row that goes.
  struct Old {
    std::int64_t sequence = 0;
    Bytes event_log;
    Bytes expected;
    Bytes baseline;
  };

  // Once half as many again as are kept have come together, so that one line of the audit log stands for
  // many. In the transaction of the new record.
  Status Archive(SqliteConnection& connection, const EvidenceRecord& record, std::vector<Bytes>& dropped) {
    if (limits_.keep == 0) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t unchanged, Count(connection, record.node_id, 0));
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t changed, Count(connection, record.node_id, 1));
    const std::size_t changes_kept = limits_.keep * kChangesFactor;
    if (unchanged <= limits_.keep + limits_.keep / 2 && changed <= changes_kept + limits_.keep / 2)
      return OkStatus();
    std::vector<Old> old;
    Sha256Hasher hasher;
    SEALIFT_RETURN_IF_ERROR(CollectOld(connection, record.node_id, 0, limits_.keep, old, hasher));
    SEALIFT_RETURN_IF_ERROR(CollectOld(connection, record.node_id, 1, changes_kept, old, hasher));
    if (old.empty()) return OkStatus();
    for (const Old& one : old) {
      SEALIFT_ASSIGN_OR_RETURN(auto drop, connection.Prepare("DELETE FROM evidence WHERE sequence = $1"));
      SEALIFT_RETURN_IF_ERROR(drop.Integer(one.sequence).Run().status());
      dropped.push_back(one.event_log);
      if (!one.expected.empty()) dropped.push_back(one.expected);
      if (!one.baseline.empty()) dropped.push_back(one.baseline);
    }
    const auto [first, last] = std::ranges::minmax_element(old, {}, &Old::sequence);
    SEALIFT_ASSIGN_OR_RETURN(
        auto line,
        connection.Prepare("INSERT INTO audit (at_ms, operator_name, role, rpc, request, outcome) "
                           "VALUES ($1, 'controller', 'controller', 'evidence archive', $2, 'OK')"));
    return line.Time(record.verdict.decided)
        .Text(fmt::format(
            "node {}: {} records of evidence removed, {} to {}; SHA-256 over their attestations "
            "and verdicts {}",
            record.node_id.text(), old.size(), first->sequence, last->sequence, hasher.Finish().hex()))
        .Run()
        .status();
  }

  static Result<std::size_t> Count(SqliteConnection& connection, const NodeId& id, int changed) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto query, connection.Prepare("SELECT COUNT(*) FROM evidence WHERE node_id = $1 AND changed = $2"));
    SEALIFT_RETURN_IF_ERROR(query.Text(id.text()).Integer(changed).Step().status());
    return static_cast<std::size_t>(query.IntegerAt(0));
  }

  // All but the newest `keep`; what they said goes into `hasher`.
  static Status CollectOld(SqliteConnection& connection, const NodeId& id, int changed, std::size_t keep,
                           std::vector<Old>& old, Sha256Hasher& hasher) {
    SEALIFT_ASSIGN_OR_RETURN(
        auto query,
        connection.Prepare("SELECT sequence, event_log, expected, attest, verdict, baseline FROM evidence "
                           "WHERE node_id = $1 AND changed = $2 ORDER BY sequence DESC LIMIT $3 OFFSET $4"));
    query.Text(id.text()).Integer(changed).Integer(kMostAtOnce).Integer(static_cast<std::int64_t>(keep));
    for (;;) {
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
      if (!row) return OkStatus();
      old.push_back({.sequence = query.IntegerAt(0),
                     .event_log = query.BlobAt(1),
                     .expected = query.BlobAt(2),
                     .baseline = query.BlobAt(5)});
      hasher.Update(query.BlobAt(3));
      hasher.Update(AsBytes(query.TextAt(4)));
    }
  }

  // Files that no record names any more. What cannot be removed stays, and costs space alone.
  void RemoveUnnamed(const std::vector<Bytes>& names) {
    if (names.empty()) return;
    const std::unique_lock lock(blobs_mutex_);
    for (const Bytes& name : std::set<Bytes>(names.begin(), names.end())) {
      bool named = true;
      const Status looked = db_.Read([&](SqliteConnection& connection) -> Status {
        SEALIFT_ASSIGN_OR_RETURN(auto query,
                                 connection.Prepare("SELECT 1 FROM evidence WHERE event_log = $1 UNION ALL "
                                                    "SELECT 1 FROM evidence WHERE expected = $2 UNION ALL "
                                                    "SELECT 1 FROM evidence WHERE baseline = $3 LIMIT 1"));
        SEALIFT_ASSIGN_OR_RETURN(named, query.Blob(name).Blob(name).Blob(name).Step());
        return OkStatus();
      });
      std::error_code ignored;
      if (looked.ok() && !named) std::filesystem::remove(blobs_ / HexEncode(name), ignored);
    }
  }

  SqliteDb& db_;
  std::filesystem::path blobs_;
  const EvidenceLimits limits_;
  // Shared while a record is written whose files are there; alone while files go.
  std::shared_mutex blobs_mutex_;
};

}  // namespace

std::unique_ptr<EvidenceStore> MakeSqliteEvidenceStore(SqliteDb& db, std::filesystem::path blobs,
                                                       EvidenceLimits limits) {
  return std::make_unique<SqliteEvidenceStore>(db, std::move(blobs), limits);
}

}  // namespace sealift::controller
