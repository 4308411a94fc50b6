// The stores that only grow: releases, the allow-list, audit, certificates.
#include <fmt/format.h>

#include "controller/store/codec.h"
#include "controller/store/sqlite_stores.h"

namespace sealift::controller {
namespace {

Result<ReleaseRecord> ReadRelease(const SqliteStatement& row) {
  ReleaseRecord release;
  release.channel = row.TextAt(0);
  release.version = row.TextAt(1);
  SEALIFT_ASSIGN_OR_RETURN(release.release_id.digest, Sha256Digest::FromBytes(row.BlobAt(2)));
  release.published = row.TimeAt(3);
  release.total_bytes = static_cast<std::uint64_t>(row.IntegerAt(4));
  release.manifest_json = row.TextAt(5);
  return release;
}

Status NoSuchRelease(const std::string& channel, const std::string& version) {
  return MakeError(Code::kNotFound, Reason::kReleaseUnknown,
                   fmt::format("find release {} in channel {}", version, channel));
}

class SqliteReleaseStore final : public ReleaseStore {
 public:
  explicit SqliteReleaseStore(SqliteDb& db) : db_(db) {}

  Status Put(const ReleaseRecord& release) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto known,
          connection.Prepare("SELECT release_id FROM releases WHERE channel = $1 AND version = $2"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, known.Text(release.channel).Text(release.version).Step());
      if (row && known.BlobAt(0) == ToBytes(release.release_id.digest.view())) return OkStatus();
      if (row) {
        return MakeError(Code::kAlreadyExists, Reason::kInvalidArgument,
                         fmt::format("record release {} in channel {}: another release has this version",
                                     release.version, release.channel));
      }
      SEALIFT_ASSIGN_OR_RETURN(
          auto insert, connection.Prepare("INSERT INTO releases (channel, version, release_id, published_ms, "
                                          "total_bytes, manifest) VALUES ($1, $2, $3, $4, $5, $6)"));
      insert.Text(release.channel).Text(release.version).Blob(release.release_id.digest.view());
      insert.Time(release.published).Integer(static_cast<std::int64_t>(release.total_bytes));
      return insert.Text(release.manifest_json).Run().status();
    });
  }

  Result<ReleaseRecord> Get(const std::string& channel, const std::string& version) override {
    ReleaseRecord found;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare("SELECT channel, version, release_id, published_ms, total_bytes, manifest "
                             "FROM releases WHERE channel = $1 AND version = $2"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Text(channel).Text(version).Step());
      if (!row) return NoSuchRelease(channel, version);
      SEALIFT_ASSIGN_OR_RETURN(found, ReadRelease(query));
      return OkStatus();
    }));
    return found;
  }

  Result<std::vector<ReleaseRecord>> List(const std::string& channel) override {
    std::vector<ReleaseRecord> releases;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query,
          connection.Prepare("SELECT channel, version, release_id, published_ms, total_bytes, manifest "
                             "FROM releases ORDER BY channel, published_ms, version"));
      for (;;) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) return OkStatus();
        SEALIFT_ASSIGN_OR_RETURN(ReleaseRecord release, ReadRelease(query));
        if (channel.empty() || release.channel == channel) releases.push_back(std::move(release));
      }
    }));
    return releases;
  }

 private:
  SqliteDb& db_;
};

class SqliteAdmissionStore final : public AdmissionStore {
 public:
  explicit SqliteAdmissionStore(SqliteDb& db) : db_(db) {}

  Status Admit(const AdmittedEk& ek) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto write,
          connection.Prepare("INSERT INTO admitted_eks (ek_digest, labels, note, admitted_by, at_ms) "
                             "VALUES ($1, $2, $3, $4, $5) ON CONFLICT (ek_digest) DO UPDATE SET "
                             "labels = excluded.labels, note = excluded.note"));
      write.Blob(ek.ek_digest.view())
          .Text(EncodeLabels(ek.labels))
          .Text(ek.note)
          .Text(ek.admitted_by)
          .Time(ek.at);
      return write.Run().status();
    });
  }

  Result<std::optional<AdmittedEk>> Find(const Sha256Digest& ek_digest) override {
    std::optional<AdmittedEk> found;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare(
                          "SELECT labels, note, admitted_by, at_ms FROM admitted_eks WHERE ek_digest = $1"));
      SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Blob(ek_digest.view()).Step());
      if (!row) return OkStatus();
      AdmittedEk ek{.ek_digest = ek_digest};
      SEALIFT_ASSIGN_OR_RETURN(ek.labels, DecodeLabels(query.TextAt(0)));
      ek.note = query.TextAt(1);
      ek.admitted_by = query.TextAt(2);
      ek.at = query.TimeAt(3);
      found = std::move(ek);
      return OkStatus();
    }));
    return found;
  }

 private:
  SqliteDb& db_;
};

class SqliteAuditStore final : public AuditStore {
 public:
  explicit SqliteAuditStore(SqliteDb& db) : db_(db) {}

  Status Append(const AuditRecord& record) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto insert, connection.Prepare("INSERT INTO audit (at_ms, operator_name, role, rpc, request, "
                                          "outcome) VALUES ($1, $2, $3, $4, $5, $6)"));
      insert.Time(record.at)
          .Text(record.operator_name)
          .Text(record.role)
          .Text(record.rpc)
          .Text(record.request);
      return insert.Text(record.outcome).Run().status();
    });
  }

  Result<std::vector<AuditRecord>> List(std::uint64_t after, std::size_t limit) override {
    std::vector<AuditRecord> records;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto query, connection.Prepare("SELECT sequence, at_ms, operator_name, role, rpc, request, outcome "
                                         "FROM audit WHERE sequence > $1 ORDER BY sequence LIMIT $2"));
      query.Integer(static_cast<std::int64_t>(after)).Integer(static_cast<std::int64_t>(limit));
      for (;;) {
        SEALIFT_ASSIGN_OR_RETURN(const bool row, query.Step());
        if (!row) return OkStatus();
        records.push_back(AuditRecord{.sequence = static_cast<std::uint64_t>(query.IntegerAt(0)),
                                      .at = query.TimeAt(1),
                                      .operator_name = query.TextAt(2),
                                      .role = query.TextAt(3),
                                      .rpc = query.TextAt(4),
                                      .request = query.TextAt(5),
                                      .outcome = query.TextAt(6)});
      }
    }));
    return records;
  }

 private:
  SqliteDb& db_;
};

class SqliteCertificateStore final : public CertificateStore {
 public:
  explicit SqliteCertificateStore(SqliteDb& db) : db_(db) {}

  Status RecordIssued(const IssuedCertificate& certificate) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto insert,
          connection.Prepare("INSERT INTO certificates (sha256, subject, issued_ms, not_after_ms) "
                             "VALUES ($1, $2, $3, $4) ON CONFLICT (sha256) DO NOTHING"));
      insert.Blob(certificate.sha256.view()).Text(certificate.subject).Time(certificate.issued);
      return insert.Time(certificate.not_after).Run().status();
    });
  }

  Status Revoke(const Sha256Digest& sha256, const std::string& reason, UnixMillis at) override {
    return db_.Write([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(
          auto insert, connection.Prepare("INSERT INTO revocations (sha256, reason, at_ms) VALUES ($1, $2, "
                                          "$3) ON CONFLICT (sha256) DO NOTHING"));
      return insert.Blob(sha256.view()).Text(reason).Time(at).Run().status();
    });
  }

  Result<bool> IsRevoked(const Sha256Digest& sha256) override {
    bool revoked = true;
    SEALIFT_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& connection) -> Status {
      SEALIFT_ASSIGN_OR_RETURN(auto query, connection.Prepare("SELECT 1 FROM revocations WHERE sha256 = $1"));
      SEALIFT_ASSIGN_OR_RETURN(revoked, query.Blob(sha256.view()).Step());
      return OkStatus();
    }));
    return revoked;
  }

 private:
  SqliteDb& db_;
};

}  // namespace

std::unique_ptr<ReleaseStore> MakeSqliteReleaseStore(SqliteDb& db) {
  return std::make_unique<SqliteReleaseStore>(db);
}
std::unique_ptr<AdmissionStore> MakeSqliteAdmissionStore(SqliteDb& db) {
  return std::make_unique<SqliteAdmissionStore>(db);
}
std::unique_ptr<AuditStore> MakeSqliteAuditStore(SqliteDb& db) {
  return std::make_unique<SqliteAuditStore>(db);
}
std::unique_ptr<CertificateStore> MakeSqliteCertificateStore(SqliteDb& db) {
  return std::make_unique<SqliteCertificateStore>(db);
}

}  // namespace sealift::controller
