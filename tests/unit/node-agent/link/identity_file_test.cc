// The stored certificate lies on a partition that anybody may have written to.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "node-agent/link/enrolment.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "tests/support/test_keys.h"

namespace sealift::agent {
namespace {

TEST(IdentityFile, WaitsForNoPipeAndReplacesWhateverLiesThere) {
  log::SetLevel(log::Level::kError);
  const TempDir folder = TempDir::Create("sealift-identity").value();
  const std::filesystem::path path = folder.path() / "node-certificate.pem";
  const test::TestKey key = test::MakeTestKey("node");
  const NodeIdentity identity{.id = NodeId::Parse("0193a8e0-0000-7000-8000-000000000001").value(),
                              .chain = {Certificate::FromDer(key.certificate).value()}};
  const std::function<void()> obstacles[] = {
      [&] { ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0); },
      [&] { std::filesystem::create_directories(path / "full"); },
      [&] { std::filesystem::create_symlink("/dev/zero", path); },
  };
  for (const auto& put : obstacles) {
    put();
    EXPECT_FALSE(IdentityFile(path).Load(key.signer->public_key(), UnixMillis{}).has_value());
    const Status saved = IdentityFile(path).Save(identity);
    EXPECT_TRUE(saved.ok()) << saved;
    EXPECT_EQ(ReadTextFile(path).value(), identity.ChainPem());
    std::filesystem::remove(path);
  }
}

TEST(JoinTokenFile, KeepsOneWordAndBelievesNothingElse) {
  log::SetLevel(log::Level::kError);
  const TempDir folder = TempDir::Create("sealift-token").value();
  const JoinTokenFile file(folder.path() / "join-token");
  EXPECT_TRUE(file.Read().empty());
  std::filesystem::create_symlink("/dev/zero", folder.path() / "join-token");
  EXPECT_TRUE(file.Read().empty());
  ASSERT_TRUE(file.Keep(SecretBytes(AsBytes(" sealift-join-1\n"))).ok());
  EXPECT_TRUE(file.Read().Equals(AsBytes("sealift-join-1")));
  struct stat info {};
  ASSERT_EQ(::lstat((folder.path() / "join-token").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode, static_cast<mode_t>(S_IFREG | 0600));
  for (const std::string& wrong :
       {std::string(), std::string("\n"), std::string("a b"), std::string(257, 'a')}) {
    EXPECT_EQ(ReasonOf(file.Keep(SecretBytes(AsBytes(wrong)))), Reason::kJoinTokenUnusable);
  }
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "join-token", AsBytes(std::string(300, 'a'))).ok());
  EXPECT_TRUE(file.Read().empty());
  EXPECT_TRUE(file.Remove().ok());
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "join-token"));
}

}  // namespace
}  // namespace sealift::agent
