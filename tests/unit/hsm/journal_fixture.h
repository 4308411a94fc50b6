// A signing journal in a folder of its own, with a checkpoint key in memory. The disk under it is watched:
// this program's fdatasync tells what would be left after a power cut, and can fail.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "hsm/journal.h"
#include "hsm/journal_verify.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::hsm {

// Called by this program's fdatasync, with the descriptor; returns an errno or 0. Empty: the real one alone.
// Set and cleared while no thread uses a journal, and cleared before what it refers to goes.
std::function<int(int)>& FlushHook();

class JournalTest : public ::testing::Test {
 protected:
  void TearDown() override { FlushHook() = nullptr; }

  std::filesystem::path file() const { return folder_.path() / "journal"; }
  Result<std::shared_ptr<Journal>> TryOpen(JournalOptions options = {}) {
    auto journal = Journal::Open(file(), std::move(options));
    if (journal.ok()) (*journal)->SetCheckpointSigner(key_);
    return journal;
  }
  std::shared_ptr<Journal> Open(JournalOptions options = {}) {
    auto journal = TryOpen(std::move(options));
    EXPECT_TRUE(journal.ok()) << Describe(journal.status());
    return journal.ok() ? *std::move(journal) : nullptr;
  }
  static SigningRequest Request(std::string intent, const Sha256Digest& digest = {}) {
    return {.scheme = SignatureScheme::kEcdsaSha256, .digest = digest.view(), .intent = std::move(intent)};
  }
  // One operation from intent to commit; the "signature" is the intent's text.
  static Status Use(Journal& journal, const std::string& intent, std::uint8_t key = 1) {
    Sha256Digest key_id;
    key_id.bytes[0] = key;
    SEALIFT_ASSIGN_OR_RETURN(const auto sequence, journal.RecordIntent(key_id, Request(intent)));
    SEALIFT_ASSIGN_OR_RETURN(const auto place, journal.RecordOutcome(sequence, ToBytes(intent)));
    return journal.Commit(place);
  }
  std::vector<std::string> Lines() const {
    std::ifstream in(file());
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  void Write(const std::vector<std::string>& lines) const {
    std::ofstream out(file(), std::ios::trunc);
    for (const std::string& line : lines) out << line << '\n';
  }
  Result<JournalReport> Verify(std::vector<JournalCheckpoint> checkpoints = {}) const {
    return VerifyJournal(file(), {.keys = {key_->public_key()}, .checkpoints = std::move(checkpoints)});
  }
  // The only finding, as "edited 3".
  std::string Finding(std::vector<JournalCheckpoint> checkpoints = {}) const {
    const auto report = Verify(std::move(checkpoints));
    if (!report.ok()) return Describe(report.status());
    if (report->findings.empty()) return "none";
    return std::string(JournalFindingName(report->findings.front().kind)) + " " +
           std::to_string(report->findings.front().sequence);
  }

  TempDir folder_ = TempDir::Create("journal").value();
  std::shared_ptr<SoftwareSigner> key_ = SoftwareSigner::Generate(KeyType::kEcP256).value();
};

}  // namespace sealift::hsm
