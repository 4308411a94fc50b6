# Debian packages: sealift-agent, sealift-controller, sealift (the operator's command).
#
#   ninja -C build/release packages        all three, into build/release/packages
#   ninja -C build/release package-agent   only the agent, which is all an image needs
#
# The agent's package needs nothing but glibc and runs no maintainer script: `sealift build-uki --with-agent` and
# images of other distributions unpack it. What it cannot link statically lies beside it in /usr/lib/sealift.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)
set(unit_dir /usr/lib/systemd/system)

if(TARGET sealift-agent)
  install(TARGETS sealift-agent RUNTIME DESTINATION /usr/lib/sealift COMPONENT agent)
  install(FILES deploy/systemd/sealift-agent.service deploy/systemd/sealift-extensions.service
    deploy/systemd/sealift-unlock.service deploy/systemd/sealift-install.service DESTINATION ${unit_dir} COMPONENT agent)
  install(FILES deploy/systemd/sealift-watchdog.service deploy/systemd/sealift-boot-deadline.service
    deploy/systemd/sealift-boot-deadline.timer DESTINATION ${unit_dir} COMPONENT agent)
  install(FILES deploy/systemd/50-sealift-watchdog.conf DESTINATION /usr/lib/systemd/system.conf.d COMPONENT agent)
  # Wanted by the vendor, so that whoever unpacks the package has nothing to enable.
  foreach(unit sealift-watchdog.service sealift-boot-deadline.timer)
    install(CODE "file(MAKE_DIRECTORY \"\$ENV{DESTDIR}${unit_dir}/sysinit.target.wants\")
      file(CREATE_LINK ../${unit} \"\$ENV{DESTDIR}${unit_dir}/sysinit.target.wants/${unit}\" SYMBOLIC)" COMPONENT agent)
  endforeach()
  install(FILES deploy/systemd/50-sealift-blesses.conf DESTINATION ${unit_dir}/systemd-bless-boot.service.d COMPONENT agent)
  install(FILES LICENSE DESTINATION /usr/share/doc/sealift-agent RENAME copyright COMPONENT agent)
  install(CODE "file(MAKE_DIRECTORY \"\$ENV{DESTDIR}/usr/bin\")
    file(CREATE_LINK ../lib/sealift/sealift-agent \"\$ENV{DESTDIR}/usr/bin/sealift-agent\" SYMBOLIC)" COMPONENT agent)
  # tpm2-tss, libcryptsetup and what they need themselves, under the names the loader looks for.
  foreach(soname libtss2-esys.so.0 libtss2-sys.so.1 libtss2-mu.so.0 libtss2-rc.so.0 libtss2-tctildr.so.0
                 libtss2-tcti-device.so.0 libcrypto.so.3
                 libcryptsetup.so.12 libdevmapper.so.1.02.1 libuuid.so.1 libargon2.so.1 libjson-c.so.5 libblkid.so.1
                 libselinux.so.1 libpcre2-8.so.0 libudev.so.1)
    find_file(SEALIFT_${soname} ${soname} PATHS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE} NO_DEFAULT_PATH REQUIRED)
    get_filename_component(real ${SEALIFT_${soname}} REALPATH)
    install(FILES ${real} DESTINATION /usr/lib/sealift RENAME ${soname} COMPONENT agent)
  endforeach()
endif()
if(TARGET sealift-controller)
  install(TARGETS sealift-controller RUNTIME DESTINATION /usr/bin COMPONENT controller)
  install(FILES deploy/systemd/sealift-controller.service DESTINATION ${unit_dir} COMPONENT controller)
  install(FILES LICENSE DESTINATION /usr/share/doc/sealift-controller RENAME copyright COMPONENT controller)
endif()
if(TARGET sealift)
  install(TARGETS sealift RUNTIME DESTINATION /usr/bin COMPONENT cli)
  # A TUF client for whoever mirrors or checks a repository.
  install(TARGETS sealift-tuf RUNTIME DESTINATION /usr/bin COMPONENT cli)
  install(FILES LICENSE DESTINATION /usr/share/doc/sealift RENAME copyright COMPONENT cli)
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME sealift)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "Sealift <sealift@localhost>")
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}/packages)
set(CPACK_PACKAGING_INSTALL_PREFIX /)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_COMPONENTS_ALL)
foreach(pair sealift-agent=agent sealift-controller=controller sealift=cli)
  string(REPLACE "=" ";" pair ${pair})
  list(GET pair 0 program)
  list(GET pair 1 component)
  if(TARGET ${program})
    list(APPEND CPACK_COMPONENTS_ALL ${component})
  endif()
endforeach()

set(CPACK_COMPONENT_AGENT_DESCRIPTION "Sealift node agent
 Keeps a machine enrolled, attested and on the release that its controller wants.")
set(CPACK_DEBIAN_AGENT_PACKAGE_NAME sealift-agent)
set(CPACK_DEBIAN_AGENT_PACKAGE_DEPENDS "libc6 (>= 2.36)")
set(CPACK_COMPONENT_CONTROLLER_DESCRIPTION "Sealift controller
 Keeps the fleet's releases, nodes and rollouts; its keys stay in PKCS#11 tokens.")
set(CPACK_DEBIAN_CONTROLLER_PACKAGE_NAME sealift-controller)
set(CPACK_DEBIAN_CONTROLLER_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_CONTROLLER_PACKAGE_RECOMMENDS "softhsm2")
set(CPACK_COMPONENT_CLI_DESCRIPTION "Sealift operator command
 Builds and signs releases, makes keys and tokens, and steers rollouts.")
set(CPACK_DEBIAN_CLI_PACKAGE_NAME sealift)
set(CPACK_DEBIAN_CLI_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_CLI_PACKAGE_RECOMMENDS "softhsm2, systemd-boot-efi")
include(CPack)

function(sealift_package_target name components)
  set(programs)
  foreach(program IN LISTS ARGN)
    if(TARGET ${program})
      list(APPEND programs ${program})
    endif()
  endforeach()
  add_custom_target(${name}
    COMMAND ${CMAKE_CPACK_COMMAND} -G DEB -D CPACK_COMPONENTS_ALL=${components}
    DEPENDS ${programs}
    WORKING_DIRECTORY ${CMAKE_BINARY_DIR}
    VERBATIM USES_TERMINAL)
endfunction()
sealift_package_target(package-agent agent sealift-agent)
sealift_package_target(packages "${CPACK_COMPONENTS_ALL}" sealift-agent sealift-controller sealift sealift-tuf)
